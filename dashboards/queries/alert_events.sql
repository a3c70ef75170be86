SELECT now() AS time, subject, aspect, participant, other_participant, exchange, severity, is_open::double precision AS is_open
  FROM event_alert
 WHERE kind = '{kind}'
