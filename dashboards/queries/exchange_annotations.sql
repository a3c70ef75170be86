SELECT started_at AS time, coalesce(ended_at, $__timeTo()::timestamptz) AS timeend, message AS text, kind || ',' || severity AS tags
  FROM event_view
 WHERE exchange = ${exchange:sqlstring} AND started_at <= $__timeTo() AND coalesce(ended_at, 'infinity') >= $__timeFrom()
 ORDER BY started_at
 LIMIT 500
