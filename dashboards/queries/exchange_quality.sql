SELECT time, value, low, high
  FROM quality_series
 WHERE exchange = ${exchange:sqlstring} AND property = ${property:sqlstring}
   AND step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
 ORDER BY time
