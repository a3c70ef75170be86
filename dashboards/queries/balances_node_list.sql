SELECT DISTINCT name || ' · ' || quantity AS __text, node || ' ' || quantity AS __value FROM node_now
 WHERE participant IN (${participant:sqlstring}) ORDER BY 1
