SELECT started_at AS since, ended_at AS until, severity, kind, subject, message, evidence::text AS evidence,
       coalesce(meter, '') AS meter, from_ms, to_ms
  FROM event_view
 WHERE exchange = ${exchange:sqlstring} AND started_at <= $__timeTo() AND coalesce(ended_at, 'infinity') >= $__timeFrom()
 ORDER BY started_at DESC
 LIMIT 200
