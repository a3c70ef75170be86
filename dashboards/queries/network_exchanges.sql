SELECT exchange, name, from_name AS "from", to_name AS "to",
       CASE WHEN in_agreement THEN 'agreed' WHEN NOT in_agreement THEN 'out of agreement' ELSE 'no value' END AS state,
       rate, rate_u95 AS "u95", rate_unit AS unit, difference, tolerance, money_per_h
  FROM exchange_rate_now
 WHERE kind IN (${kind:sqlstring})
 ORDER BY in_agreement NULLS FIRST, position
