SELECT id, name AS title, coalesce(round(statistic::numeric, 2), 0)::double precision AS mainstat,
       exchanges::double precision AS secondarystat,
       agreed AS arc__agreed, deviating AS arc__deviating, unknown AS arc__unknown
  FROM network_node
 ORDER BY position
