WITH newest AS (
    SELECT meter FROM meter_now
     WHERE participant IN (${participant:sqlstring}) AND test_statistic IS NOT NULL
     ORDER BY suspect DESC, abs(test_statistic) DESC LIMIT 6)
SELECT s.time, n.meter AS metric, s.statistic AS value
  FROM newest n
 CROSS JOIN LATERAL (
       SELECT time, statistic FROM meter_series
        WHERE meter = n.meter AND step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
        OFFSET 0) s                              -- each by its own index; else all are read and most thrown away
 ORDER BY s.time
