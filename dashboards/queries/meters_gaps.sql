SELECT source, meter, started_at AS since, ended_at AS until, cause
  FROM gap_list
 WHERE started_at <= $__timeTo() AND coalesce(ended_at, 'infinity') >= $__timeFrom()
 ORDER BY started_at DESC
 LIMIT 200
