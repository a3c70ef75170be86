SELECT node, name, participant_name AS participant, quantity, unit, imbalance, stored, 1.96 * std AS u95,
       abs(imbalance) / nullif(std, 0) AS statistic
  FROM node_now
 WHERE participant IN (${participant:sqlstring})
 ORDER BY abs(imbalance) / nullif(std, 0) DESC NULLS LAST
