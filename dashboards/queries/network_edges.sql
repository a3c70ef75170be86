SELECT id, source, target, rate AS mainstat,
       rate_unit || CASE WHEN state = 'agreed' THEN '' ELSE ', ' || state END AS secondarystat,
       CASE state WHEN 'agreed' THEN '#0072B2' WHEN 'out of agreement' THEN '#D55E00' ELSE '#8F8F8F' END AS color,
       CASE WHEN state = 'out of agreement' THEN 4 ELSE 1.5 END::double precision AS thickness,
       kind AS detail__kind, names AS detail__exchanges, state AS detail__state,
       coalesce(round((100 * difference)::numeric, 1)::text || ' %', 'one end') AS detail__difference,
       coalesce(deviating, first_exchange) AS detail__exchange
  FROM network_edge
 WHERE kind IN (${kind:sqlstring})
 ORDER BY id
