SELECT time, value, low, high
  FROM quality_series
 WHERE exchange = split_part(${limit:sqlstring}, ' ', 1) AND property = split_part(${limit:sqlstring}, ' ', 2)
   AND step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
 ORDER BY time
