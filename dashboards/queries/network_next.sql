SELECT e.severity, e.started_at AS since, e.message, e.kind, e.subject, coalesce(e.exchange, '') AS exchange,
       coalesce(e.meter, '') AS meter, abs(r.money_per_h) AS money_per_h, e.from_ms, e.to_ms
  FROM event_view e
  LEFT JOIN exchange_rate_now r ON r.exchange = e.exchange
 WHERE e.is_open
 ORDER BY e.rank DESC, abs(r.money_per_h) DESC NULLS LAST, e.started_at
 LIMIT 50
