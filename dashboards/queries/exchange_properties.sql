SELECT property FROM limit_list WHERE exchange = ${exchange:sqlstring} ORDER BY position
