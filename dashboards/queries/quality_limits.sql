SELECT exchange || ' ' || property FROM limit_list WHERE exchange IN (${exchanges:sqlstring}) ORDER BY position
