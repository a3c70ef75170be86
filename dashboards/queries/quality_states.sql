SELECT time, exchange || ' ' || property AS metric,
       CASE WHEN value < low THEN -1 WHEN value > high THEN 1 WHEN value IS NOT NULL THEN 0 END::double precision AS value
  FROM quality_series
 WHERE exchange IN (${exchanges:sqlstring}) AND step_s = series_step($__timeFrom(), $__timeTo(), 6) AND $__timeFilter(time)
 ORDER BY time
