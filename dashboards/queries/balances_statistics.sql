WITH newest AS (
    SELECT node, quantity FROM node_now
     WHERE participant IN (${participant:sqlstring})
     ORDER BY abs(imbalance) / nullif(std, 0) DESC NULLS LAST LIMIT 6)
SELECT s.time, n.node || ' ' || n.quantity AS metric, s.statistic AS value
  FROM newest n
 CROSS JOIN LATERAL (
       SELECT time, statistic FROM node_series
        WHERE node = n.node AND quantity = n.quantity
          AND step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
        OFFSET 0) s                              -- each by its own index; else all are read and most thrown away
 ORDER BY s.time
