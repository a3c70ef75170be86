SELECT name, CASE WHEN use = 'used again' THEN water_m3_h END AS "used again", CASE WHEN use = 'fresh' THEN water_m3_h END AS fresh
  FROM water_use_now
 ORDER BY water_m3_h DESC NULLS LAST
