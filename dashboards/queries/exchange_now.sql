SELECT rate_unit AS unit, rate AS "reconciled", rate_u95 AS "u95", sender, receiver, difference, money_per_h
  FROM exchange_rate_now
 WHERE exchange = ${exchange:sqlstring}
