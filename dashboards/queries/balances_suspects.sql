SELECT meter, participant, stream, quantity, meter_unit AS unit, abs(test_statistic) AS statistic, suspect
  FROM meter_now
 WHERE participant IN (${participant:sqlstring}) AND test_statistic IS NOT NULL
 ORDER BY suspect DESC, abs(test_statistic) DESC
 LIMIT 30
