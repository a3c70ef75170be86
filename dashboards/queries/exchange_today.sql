SELECT d.unit, d.reconciled AS total, d.reconciled_u95 AS u95, d.sender AS "sender total", d.receiver AS "receiver total",
       d.money, d.hours
  FROM exchange_day d
 WHERE d.exchange = ${exchange:sqlstring}
 ORDER BY d.time DESC
 LIMIT 1
