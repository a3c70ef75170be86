SELECT sum(avoided_co2_kg_h) / 1000 AS "CO2 avoided", sum(avoided_water_m3_h) AS "fresh water avoided",
       sum(avoided_material_t_h) AS "material avoided", sum(saved_cost_per_h) AS "cost saved",
       sum(abs(money_per_h)) AS "money exchanged"
  FROM exchange_rate_now
