SELECT c.source, c.state, c.since, k.complete_to AS "complete up to", k.lag_s AS lag, k.open_gaps::double precision AS "open gaps",
       k.open_cause AS cause, k.gaps_24h::double precision AS "gaps in 24 h", k.clock_offset_s AS "clock ahead",
       c.readings::double precision AS readings, c.rejected::double precision AS rejected, c.detail
  FROM collector_status c
  LEFT JOIN source_completeness k ON k.source = c.source
 ORDER BY k.open_gaps DESC NULLS LAST, k.lag_s DESC NULLS LAST, c.source
