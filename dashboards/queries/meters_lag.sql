SELECT time, lag_s AS "from a window's end to its result", revised::double precision AS "windows revised"
  FROM window_series
 WHERE step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
 ORDER BY time
