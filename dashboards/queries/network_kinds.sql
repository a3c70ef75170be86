SELECT DISTINCT kind FROM exchange_list ORDER BY kind
