SELECT time, global_test_ratio AS "global test"
  FROM window_series
 WHERE step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
 ORDER BY time
