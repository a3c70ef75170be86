SELECT window_end AS "newest window", extract(epoch FROM computed_at - window_end)::double precision AS "lag",
       global_test / nullif(degrees_of_freedom, 0) AS "global test"
  FROM window_log
 ORDER BY window_start DESC
 LIMIT 1
