SELECT time, -1.96 * std AS low, 1.96 * std AS high, imbalance
  FROM node_series
 WHERE node = split_part(${node:sqlstring}, ' ', 1) AND quantity = split_part(${node:sqlstring}, ' ', 2)
   AND step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
 ORDER BY time
