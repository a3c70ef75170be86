SELECT (SELECT count(*) FROM meter_now WHERE silent)::double precision AS silent,
       (SELECT count(*) FROM meter_now WHERE stuck)::double precision AS stuck,
       (SELECT count(*) FROM meter_now WHERE suspect)::double precision AS suspect,
       (SELECT count(*) FROM event_view WHERE is_open)::double precision AS "open events"
