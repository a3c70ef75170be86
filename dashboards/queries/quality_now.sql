SELECT exchange, name, property, value, unit, low, high, state, band_position AS position, meters
  FROM quality_now
 ORDER BY state = 'inside', quality_now.position
