SELECT time, measured, expected
  FROM meter_series
 WHERE meter = ${meter:sqlstring} AND step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
 ORDER BY time
