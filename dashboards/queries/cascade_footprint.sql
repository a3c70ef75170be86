SELECT time, sum(avoided_co2_kg_h) / 1000 AS "CO2 avoided", sum(avoided_material_t_h) AS "material avoided"
  FROM footprint_series
 WHERE step_s = series_step($__timeFrom(), $__timeTo()) AND $__timeFilter(time)
 GROUP BY time
 ORDER BY time
