-- Readings at 1 minute, 15 minutes and 1 hour, and how long everything is kept. UTC buckets.
-- What is here serves plain PostgreSQL and TimescaleDB's Apache edition: tables, kept up to date by `reading_rollup_advance`.
-- On the Community edition continuous aggregates stand behind the same views (park/store/community.py).

-- How long is each tier kept? Nothing is deleted unless somebody says so: symbiosis db retention.
CREATE TABLE retention (
    tier text PRIMARY KEY,
    keep interval CHECK (keep >= interval '1 day'),         -- null: for ever
    cut  timestamptz                                         -- what is older has been deleted; null: nothing has
);
INSERT INTO retention (tier) VALUES ('reading'), ('reading_1min'), ('reading_15min'), ('reading_1h'), ('result');
COMMENT ON TABLE retention IS 'How long each tier is kept; see park/store/README.md';

CREATE TABLE reading_rollup (
    step_s   integer NOT NULL CHECK (step_s IN (60, 900, 3600)),
    bucket   timestamptz NOT NULL,
    meter    text NOT NULL,
    readings bigint NOT NULL,
    good     bigint NOT NULL,                                -- of good quality and with a number: the others tell of these
    total    double precision,                               -- their sum
    low      double precision,
    high     double precision,
    first    double precision,
    last     double precision,
    PRIMARY KEY (meter, step_s, bucket)
);
CREATE INDEX reading_rollup_by_bucket ON reading_rollup (step_s, bucket);

CREATE TABLE reading_rollup_pending (
    step_s integer NOT NULL,
    bucket timestamptz NOT NULL,
    PRIMARY KEY (step_s, bucket)
);
COMMENT ON TABLE reading_rollup_pending IS 'Buckets with readings that reading_rollup lacks: the views compute them from the readings';

-- What a pending minute holds. Filling the table and looking at the newest minute are the same formula.
CREATE VIEW reading_tail_1min AS
SELECT p.bucket, r.meter, r.readings, r.good, r.total, r.low, r.high, r.sorted[1] AS first, r.sorted[r.good] AS last
  FROM reading_rollup_pending p
 CROSS JOIN LATERAL (
       SELECT meter, count(*) AS readings, count(*) FILTER (WHERE is_good) AS good, sum(value) FILTER (WHERE is_good) AS total,
              min(value) FILTER (WHERE is_good) AS low, max(value) FILTER (WHERE is_good) AS high,
              array_agg(value ORDER BY source_time) FILTER (WHERE is_good) AS sorted
         FROM (SELECT meter, source_time, value, status >> 30 = 0 AND value IS NOT NULL AS is_good     -- OPC UA severity
                 FROM reading
                WHERE source_time >= p.bucket AND source_time < p.bucket + interval '1 minute') q
        GROUP BY meter) r
 WHERE p.step_s = 60;

CREATE VIEW reading_rollup_1min AS
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_rollup WHERE step_s = 60
 UNION ALL
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_tail_1min;

-- What a pending quarter of an hour or hour holds, from the next finer step.
CREATE VIEW reading_tail_15min AS
SELECT p.bucket, r.*
  FROM reading_rollup_pending p
 CROSS JOIN LATERAL (
       SELECT meter, sum(readings)::bigint AS readings, sum(good)::bigint AS good, sum(total) AS total, min(low) AS low,
              max(high) AS high, (array_agg(first ORDER BY bucket) FILTER (WHERE good > 0))[1] AS first,
              (array_agg(last ORDER BY bucket DESC) FILTER (WHERE good > 0))[1] AS last
         FROM reading_rollup_1min f
        WHERE f.bucket >= p.bucket AND f.bucket < p.bucket + interval '15 minutes'
        GROUP BY meter) r
 WHERE p.step_s = 900;

CREATE VIEW reading_rollup_15min AS
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_rollup WHERE step_s = 900
 UNION ALL
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_tail_15min;

CREATE VIEW reading_tail_1h AS
SELECT p.bucket, r.*
  FROM reading_rollup_pending p
 CROSS JOIN LATERAL (
       SELECT meter, sum(readings)::bigint AS readings, sum(good)::bigint AS good, sum(total) AS total, min(low) AS low,
              max(high) AS high, (array_agg(first ORDER BY bucket) FILTER (WHERE good > 0))[1] AS first,
              (array_agg(last ORDER BY bucket DESC) FILTER (WHERE good > 0))[1] AS last
         FROM reading_rollup_15min f
        WHERE f.bucket >= p.bucket AND f.bucket < p.bucket + interval '1 hour'
        GROUP BY meter) r
 WHERE p.step_s = 3600;

CREATE VIEW reading_rollup_1h AS
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_rollup WHERE step_s = 3600
 UNION ALL
SELECT bucket, meter, readings, good, total, low, high, first, last FROM reading_tail_1h;

-- What did a meter read, at 1 minute, 15 minutes, 1 hour? In SI. `readings` counts all, `good` those of good quality with a
-- number; mean, low, high, first and last are of these, null where there is none.
CREATE VIEW reading_1min AS
SELECT meter, bucket, readings, good, total / nullif(good, 0) AS mean, low, high, first, last FROM reading_rollup_1min;
CREATE VIEW reading_15min AS
SELECT meter, bucket, readings, good, total / nullif(good, 0) AS mean, low, high, first, last FROM reading_rollup_15min;
CREATE VIEW reading_1h AS
SELECT meter, bucket, readings, good, total / nullif(good, 0) AS mean, low, high, first, last FROM reading_rollup_1h;

-- Readings between two times are new or have changed. What is older than the readings kept is not touched: it could not
-- be computed again. DO UPDATE and not DO NOTHING: it locks the row, so `reading_rollup_advance` waits for this commit.
CREATE FUNCTION reading_rollup_mark(since timestamptz, until timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    kept_from timestamptz := (SELECT cut FROM retention WHERE tier = 'reading');
    step      integer;
    began     timestamptz;
BEGIN
    FOREACH step IN ARRAY ARRAY[60, 900, 3600] LOOP
        began := date_bin(step * interval '1 second', greatest(since, kept_from), timestamptz '2000-01-01 00:00Z');
        INSERT INTO reading_rollup_pending (step_s, bucket)
        SELECT step, bucket FROM generate_series(began, until, step * interval '1 second') AS b(bucket) ORDER BY bucket
            ON CONFLICT (step_s, bucket) DO UPDATE SET step_s = excluded.step_s;
        DELETE FROM reading_rollup WHERE step_s = step AND bucket >= began AND bucket <= until;
    END LOOP;
END
$$;
COMMENT ON FUNCTION reading_rollup_mark IS 'Readings between two times are new: their buckets are computed anew';

CREATE FUNCTION reading_rollup_arrival() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM reading_rollup_mark(NEW.period_start, NEW.period_end);
    RETURN NULL;
END
$$;
CREATE TRIGGER reading_rollup AFTER INSERT ON arrival FOR EACH ROW EXECUTE FUNCTION reading_rollup_arrival();

-- Called by whoever knows that time goes on, in a transaction of its own that is READ COMMITTED: what it has locked was
-- committed before, and the statements after the lock see it. Buckets that a writer marks just now are left for later.
CREATE FUNCTION reading_rollup_advance(until timestamptz, at_most integer DEFAULT 60) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    done    timestamptz[];
    step    integer;
    written integer := 0;
BEGIN
    FOREACH step IN ARRAY ARRAY[60, 900, 3600] LOOP
        done := ARRAY(SELECT bucket FROM reading_rollup_pending
                       WHERE step_s = step AND bucket + step * interval '1 second' <= until
                       ORDER BY bucket LIMIT at_most FOR UPDATE SKIP LOCKED);
        CONTINUE WHEN done = '{}';
        IF step = 60 THEN
            INSERT INTO reading_rollup (step_s, bucket, meter, readings, good, total, low, high, first, last)
            SELECT step, bucket, meter, readings, good, total, low, high, first, last
              FROM reading_tail_1min WHERE bucket = ANY (done);
        ELSIF step = 900 THEN
            INSERT INTO reading_rollup (step_s, bucket, meter, readings, good, total, low, high, first, last)
            SELECT step, bucket, meter, readings, good, total, low, high, first, last
              FROM reading_tail_15min WHERE bucket = ANY (done);
        ELSE
            INSERT INTO reading_rollup (step_s, bucket, meter, readings, good, total, low, high, first, last)
            SELECT step, bucket, meter, readings, good, total, low, high, first, last
              FROM reading_tail_1h WHERE bucket = ANY (done);
        END IF;
        DELETE FROM reading_rollup_pending WHERE step_s = step AND bucket = ANY (done);
        written := written + cardinality(done);
    END LOOP;
    RETURN written;
END
$$;
COMMENT ON FUNCTION reading_rollup_advance IS 'Computes the pending buckets that end before a time, the oldest first; returns how many';

INSERT INTO reading_rollup_pending (step_s, bucket)
SELECT DISTINCT step, date_bin(step * interval '1 second', minute, timestamptz '2000-01-01 00:00Z')
  FROM (SELECT DISTINCT date_bin('1 minute', source_time, timestamptz '2000-01-01 00:00Z') FROM reading) AS m(minute)
 CROSS JOIN unnest(ARRAY[60, 900, 3600]) AS s(step);

-- How long is what kept?
CREATE VIEW retention_list AS SELECT tier, keep, cut FROM retention;

-- The parts of views are hidden by their names from now on.
CREATE OR REPLACE FUNCTION grant_reader() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    entry record;
    given integer := 0;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO symbiosis_reader', current_schema());
    FOR entry IN SELECT c.relname FROM pg_class c
                  WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'v'
                    AND c.relname !~ '(_tail$|^reading_(tail|rollup|aggregate)_|^reading_list$)'
                    AND pg_has_role(c.relowner, 'USAGE') LOOP
        EXECUTE format('GRANT SELECT ON %I.%I TO symbiosis_reader', current_schema(), entry.relname);
        given := given + 1;
    END LOOP;
    RETURN given;
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'symbiosis_reader') THEN
        PERFORM grant_reader();
    END IF;
END
$$;
