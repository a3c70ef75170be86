-- Continuous aggregates behind the views reading_1min, reading_15min and reading_1h, with the meaning of the tables of
-- migration 0006. Run once, in one transaction, where the Community edition of TimescaleDB is found (park/store/community.py).

CREATE MATERIALIZED VIEW IF NOT EXISTS reading_aggregate_1min
  WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT meter, time_bucket(INTERVAL '1 minute', source_time) AS bucket, count(*) AS readings,
       count(value) FILTER (WHERE status >> 30 = 0) AS good,
       sum(value) FILTER (WHERE status >> 30 = 0) AS total,
       min(value) FILTER (WHERE status >> 30 = 0) AS low,
       max(value) FILTER (WHERE status >> 30 = 0) AS high,
       first(value, source_time) FILTER (WHERE status >> 30 = 0 AND value IS NOT NULL) AS first,
       last(value, source_time) FILTER (WHERE status >> 30 = 0 AND value IS NOT NULL) AS last
  FROM reading
 GROUP BY 1, 2
  WITH NO DATA;

CREATE MATERIALIZED VIEW IF NOT EXISTS reading_aggregate_15min
  WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT meter, time_bucket(INTERVAL '15 minutes', bucket) AS bucket, sum(readings)::bigint AS readings,
       sum(good)::bigint AS good, sum(total) AS total, min(low) AS low, max(high) AS high,
       first(first, bucket) FILTER (WHERE good > 0) AS first, last(last, bucket) FILTER (WHERE good > 0) AS last
  FROM reading_aggregate_1min
 GROUP BY 1, 2
  WITH NO DATA;

CREATE MATERIALIZED VIEW IF NOT EXISTS reading_aggregate_1h
  WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT meter, time_bucket(INTERVAL '1 hour', bucket) AS bucket, sum(readings)::bigint AS readings,
       sum(good)::bigint AS good, sum(total) AS total, min(low) AS low, max(high) AS high,
       first(first, bucket) FILTER (WHERE good > 0) AS first, last(last, bucket) FILTER (WHERE good > 0) AS last
  FROM reading_aggregate_15min
 GROUP BY 1, 2
  WITH NO DATA;

-- The tables are no longer kept up to date: what the readings still give comes from the aggregates. Buckets of readings
-- that were deleted before are all that is left in them.
DROP TRIGGER IF EXISTS reading_rollup ON arrival;
CREATE OR REPLACE FUNCTION reading_rollup_mark(since timestamptz, until timestamptz) RETURNS void LANGUAGE sql
    RETURN NULL::void;
COMMENT ON FUNCTION reading_rollup_mark IS 'Nothing to do here: the database sees by itself which readings are new';
DELETE FROM reading_rollup
 WHERE bucket >= coalesce((SELECT cut FROM retention WHERE tier = 'reading'), timestamptz '-infinity');
TRUNCATE reading_rollup_pending;

CREATE OR REPLACE VIEW reading_rollup_1min AS
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_aggregate_1min
 UNION ALL
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_rollup WHERE step_s = 60;

CREATE OR REPLACE VIEW reading_rollup_15min AS
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_aggregate_15min
 UNION ALL
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_rollup WHERE step_s = 900;

CREATE OR REPLACE VIEW reading_rollup_1h AS
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_aggregate_1h
 UNION ALL
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_rollup WHERE step_s = 3600;
