-- How complete the stored readings are, as the collector knows it. Times are those of instruments and of the run's clock.

CREATE TABLE source_mark (
    source         text PRIMARY KEY,
    complete_to    timestamptz,                -- every reading before it is stored or in a marked gap; null: not known
    computed_at    timestamptz NOT NULL,       -- run time
    held_by        text,                       -- the meter that holds it there
    silent         integer NOT NULL,           -- meters that are overdue and hold nobody back
    waiting        bigint NOT NULL,            -- readings of all sources that have come and are not stored yet
    clock_offset_s double precision,           -- what the device's clock is ahead, less the shortest way of its readings
    clock_spread_s double precision            -- what readings take beyond the shortest, on average
) WITH (fillfactor = 50);                      -- written each second: updates stay on their page
COMMENT ON TABLE source_mark IS 'Up to when each source is complete; processing closes windows by it';

CREATE TABLE meter_mark (
    meter            text PRIMARY KEY,
    source           text NOT NULL,
    last_source_time timestamptz,
    complete_to      timestamptz,
    computed_at      timestamptz NOT NULL,
    silent           boolean NOT NULL,
    clock_offset_s   double precision,
    clock_spread_s   double precision
) WITH (fillfactor = 50);
COMMENT ON TABLE meter_mark IS 'The same of each meter, every few seconds';

-- Up to when does each meter's data say everything, and how right is its clock?
CREATE VIEW meter_completeness AS
SELECT k.meter, m.participant, k.source, k.last_source_time, k.complete_to,
       extract(epoch FROM k.computed_at - k.complete_to)::double precision AS lag_s, k.computed_at, k.silent,
       k.clock_offset_s, k.clock_spread_s, m.position
  FROM meter_mark k
  JOIN park_meter m USING (meter)
  JOIN park_now USING (park_version);

-- Up to when is each source complete, what holds it back, and what is missing?
CREATE VIEW source_completeness AS
SELECT k.source, c.protocol, c.state, k.complete_to,
       extract(epoch FROM k.computed_at - k.complete_to)::double precision AS lag_s, k.computed_at, k.held_by, k.silent,
       k.waiting, g.open_gaps, g.open_since, g.open_cause, g.gaps_24h, g.last_gap_end, g.last_cause,
       k.clock_offset_s, k.clock_spread_s, c.detail
  FROM source_mark k
  LEFT JOIN collector_source c USING (source)
  CROSS JOIN LATERAL (
       SELECT count(*) FILTER (WHERE ended_at IS NULL)::integer AS open_gaps,
              min(started_at) FILTER (WHERE ended_at IS NULL) AS open_since,
              (array_agg(cause ORDER BY started_at) FILTER (WHERE ended_at IS NULL))[1] AS open_cause,
              count(*) FILTER (WHERE ended_at > k.computed_at - interval '24 hours')::integer AS gaps_24h,
              max(ended_at) AS last_gap_end,
              (array_agg(cause ORDER BY ended_at DESC) FILTER (WHERE ended_at IS NOT NULL))[1] AS last_cause
         FROM gap WHERE gap.source = k.source) g
 WHERE EXISTS (SELECT FROM meter_mark JOIN park_meter USING (meter) JOIN park_now USING (park_version)
                WHERE meter_mark.source = k.source);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'symbiosis_reader') THEN
        PERFORM grant_reader();
    END IF;
END
$$;
