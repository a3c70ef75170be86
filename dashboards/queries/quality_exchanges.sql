SELECT DISTINCT exchange || ' ' || name AS __text, exchange AS __value FROM limit_list ORDER BY 2
