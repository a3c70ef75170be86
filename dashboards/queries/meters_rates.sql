SELECT time, readings_per_s AS "usable readings"
  FROM window_series
 WHERE step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
 ORDER BY time
