SELECT exchange || ' ' || name AS __text, exchange AS __value FROM exchange_list ORDER BY position
