SELECT started_at AS time, coalesce(ended_at, $__timeTo()::timestamptz) AS timeend, message AS text, severity AS tags
  FROM event_view
 WHERE kind = 'quality_deviation' AND started_at <= $__timeTo() AND coalesce(ended_at, 'infinity') >= $__timeFrom()
 ORDER BY started_at
 LIMIT 500
