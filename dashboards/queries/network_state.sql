SELECT count(*) FILTER (WHERE in_agreement)::double precision AS "in agreement",
       count(*) FILTER (WHERE NOT in_agreement)::double precision AS "out of agreement",
       count(*) FILTER (WHERE in_agreement IS NULL)::double precision AS "without value"
  FROM exchange_now
