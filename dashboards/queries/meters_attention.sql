SELECT meter, participant, stream, quantity,
       concat_ws(', ', CASE WHEN silent THEN 'silent' END, CASE WHEN stuck THEN 'stuck' END, CASE WHEN suspect THEN 'suspect' END)
           AS state,
       abs(test_statistic) AS statistic
  FROM meter_now
 WHERE silent OR stuck OR suspect
 ORDER BY silent DESC, stuck DESC, meter
