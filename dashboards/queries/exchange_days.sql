SELECT time, sender, receiver, reconciled
  FROM exchange_day
 WHERE exchange = ${exchange:sqlstring} AND time BETWEEN $__timeFrom()::timestamptz - interval '1 day' AND $__timeTo()
 ORDER BY time
