SELECT source, protocol, state, since, last_source_time AS "newest source time",
       extract(epoch FROM last_received_at - last_source_time)::double precision AS "lag", readings::double precision AS readings,
       rejected::double precision AS rejected, detail
  FROM collector_status
 ORDER BY source
