SELECT count(*)::double precision AS meters, count(*) FILTER (WHERE silent)::double precision AS silent,
       count(*) FILTER (WHERE stuck)::double precision AS stuck, count(*) FILTER (WHERE suspect)::double precision AS suspect
  FROM meter_now
