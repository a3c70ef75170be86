SELECT exchange, name, kind, rate, rate_unit AS unit, avoided_co2_kg_h AS co2, avoided_water_m3_h AS water,
       avoided_material_t_h AS material, saved_cost_per_h AS saved, money_per_h AS money
  FROM exchange_rate_now
 ORDER BY saved_cost_per_h DESC NULLS LAST
