SELECT grade, stream, name, from_participant AS "from", to_participant AS "to", temperature_degc AS temperature, heat_mw AS heat
  FROM heat_grade_now
 ORDER BY temperature_degc DESC
