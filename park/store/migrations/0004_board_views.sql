-- What boards and alert rules read: views alone, through a role that sees nothing else.
-- Long ranges read coarser data by themselves: a view named `..._series` has rows of every window (step_s 0), of 5 minutes
-- (300) and of 1 hour (3600), and `series_step(from, until)` says which of them suit a range. Of a constant range the
-- planner settles that while planning, so the other two are not even opened.

CREATE FUNCTION series_step(since timestamptz, until timestamptz, factor double precision DEFAULT 1) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (until - since) * factor <= interval '6 hours' THEN 0
                WHEN (until - since) * factor <= interval '3 days' THEN 300
                ELSE 3600 END;
COMMENT ON FUNCTION series_step IS
    'Step of the series views that gives a range about 1000 points at most; a factor above 1 is for panels of many series';

-- ---------------------------------------------------------------------------------------------------------------------
-- Terms of the agreements, spread out of the park document like the tables of 0003

-- SI value of a unit: number * si_scale + si_offset. Held against park/units.py by a test.
CREATE VIEW unit_list (unit, si_scale, si_offset) AS VALUES
    ('kg/s', 1.0::double precision, 0.0::double precision), ('kg/min', 1.0 / 60, 0.0), ('kg/h', 1.0 / 3600, 0.0),
    ('t/h', 1000.0 / 3600, 0.0), ('t/d', 1000.0 / 86400, 0.0),
    ('m3/s', 1.0, 0.0), ('m3/h', 1.0 / 3600, 0.0), ('m3/d', 1.0 / 86400, 0.0), ('l/s', 0.001, 0.0),
    ('l/min', 0.001 / 60, 0.0), ('Nm3/h', 1.0 / 3600, 0.0),
    ('W', 0.001, 0.0), ('kW', 1.0, 0.0), ('MW', 1000.0, 0.0), ('GJ/h', 1000000.0 / 3600, 0.0),
    ('kWh', 3600.0, 0.0), ('MWh', 3600000.0, 0.0), ('GJ', 1000000.0, 0.0),
    ('kg', 1.0, 0.0), ('t', 1000.0, 0.0), ('m3', 1.0, 0.0), ('l', 0.001, 0.0), ('Nm3', 1.0, 0.0),
    ('degC', 1.0, 273.15), ('K', 1.0, 0.0),
    ('Pa', 1.0, 0.0), ('kPa', 1000.0, 0.0), ('bar', 100000.0, 0.0), ('bara', 100000.0, 0.0), ('barg', 100000.0, 101325.0),
    ('1', 1.0, 0.0), ('%', 0.01, 0.0), ('ppm', 0.000001, 0.0), ('mg/kg', 0.000001, 0.0), ('mg/l', 0.001, 0.0),
    ('g/l', 1.0, 0.0), ('uS/cm', 0.0001, 0.0), ('mS/cm', 0.1, 0.0), ('NTU', 1.0, 0.0), ('pH', 1.0, 0.0), ('m', 1.0, 0.0);

CREATE TABLE park_setting (
    park_version bigint PRIMARY KEY,
    timezone     text NOT NULL,
    currency     text NOT NULL,
    window_s     double precision NOT NULL
);

CREATE TABLE park_terms (
    park_version     bigint NOT NULL,
    exchange         text NOT NULL,
    rate_unit        text NOT NULL,                          -- settled unit an hour, by its usual name: MW, t/h, m3/h ...
    rate_per_si      double precision NOT NULL,              -- of it in 1 kg/s, 1 m3/s or 1 kW
    tolerance        double precision,                       -- between the ends, fraction of 1
    price            double precision,                       -- of one settled unit
    co2_kg           double precision NOT NULL,              -- avoided with one settled unit, as the agreement says
    water_m3         double precision NOT NULL,
    material_t       double precision NOT NULL,
    cost             double precision NOT NULL,
    PRIMARY KEY (park_version, exchange)
);

CREATE TABLE park_exchange_stream (
    park_version bigint NOT NULL,
    exchange     text NOT NULL,
    stream       text NOT NULL,
    sign         double precision NOT NULL,
    PRIMARY KEY (park_version, exchange, stream)
);

CREATE TABLE park_limit (
    park_version bigint NOT NULL,
    exchange     text NOT NULL,
    property     text NOT NULL,
    unit         text NOT NULL,
    si_scale     double precision NOT NULL,
    si_offset    double precision NOT NULL,
    low          double precision,
    high         double precision,
    position     integer NOT NULL,
    PRIMARY KEY (park_version, exchange, property)
);

-- The meters of a limit: of that property, on the exchange's leading stream. Those where the exchange is settled count,
-- and the others only while none of them has a value.
CREATE TABLE park_limit_meter (
    park_version bigint NOT NULL,
    exchange     text NOT NULL,
    property     text NOT NULL,
    meter        text NOT NULL,
    settles      boolean NOT NULL,
    PRIMARY KEY (park_version, exchange, property, meter)
);

CREATE FUNCTION park_spread_terms(version bigint, document jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO park_setting
    SELECT version, p ->> 'timezone', p ->> 'currency', (p ->> 'window_s')::double precision
      FROM (SELECT document -> 'park') AS d(p);

    INSERT INTO park_terms
    SELECT version, e ->> 'id',
           CASE u.unit WHEN 'MWh' THEN 'MW' WHEN 'kWh' THEN 'kW' ELSE u.unit || '/h' END,
           3600 / u.si_scale,
           (a ->> 'tolerance_percent')::double precision / 100,
           (a #>> '{price,value}')::double precision * u.si_scale / p.si_scale,
           coalesce((a #>> '{avoids,co2_kg_per_unit}')::double precision, 0),
           coalesce((a #>> '{avoids,water_m3_per_unit}')::double precision, 0),
           coalesce((a #>> '{avoids,material_t_per_unit}')::double precision, 0),
           coalesce((a #>> '{avoids,cost_per_unit}')::double precision, 0)
      FROM jsonb_array_elements(document -> 'exchanges') AS x(e)
     CROSS JOIN LATERAL (SELECT coalesce(nullif(e -> 'agreement', 'null'), '{}')) AS g(a)
      JOIN unit_list u ON u.unit = e ->> 'unit'
      LEFT JOIN unit_list p ON p.unit = a #>> '{price,per}';

    INSERT INTO park_exchange_stream
    SELECT version, e ->> 'id', s.stream, s.sign
      FROM jsonb_array_elements(document -> 'exchanges') AS x(e)
     CROSS JOIN LATERAL (
           SELECT e ->> 'stream' AS stream, 1.0::double precision AS sign WHERE e ->> 'stream' IS NOT NULL
           UNION ALL
           SELECT key, value::double precision
             FROM jsonb_each_text(coalesce(nullif(e -> 'streams', 'null'), '{}'))) AS s;

    INSERT INTO park_limit
    SELECT version, e ->> 'id', q ->> 'property', q ->> 'unit', u.si_scale, u.si_offset,
           (q ->> 'low')::double precision, (q ->> 'high')::double precision, (x.position * 100 + l.position)::integer
      FROM jsonb_array_elements(document -> 'exchanges') WITH ORDINALITY AS x(e, position)
     CROSS JOIN LATERAL jsonb_array_elements(coalesce(nullif(e #> '{agreement,quality}', 'null'), '[]'))
                        WITH ORDINALITY AS l(q, position)
      JOIN unit_list u ON u.unit = q ->> 'unit'
        ON CONFLICT DO NOTHING;

    INSERT INTO park_limit_meter
    SELECT version, l.exchange, l.property, m.meter, m.side = x.settled_at
      FROM park_limit l
      JOIN park_exchange x ON x.park_version = version AND x.exchange = l.exchange
      JOIN park_meter m ON m.park_version = version AND m.stream = x.stream
                       AND m.quantity IN (l.property, 'quality.' || l.property)
     WHERE l.park_version = version;
$$;

CREATE FUNCTION park_spread_terms_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM park_spread_terms(NEW.id, NEW.document);
    RETURN NULL;
END
$$;

-- triggers of one event run in the order of their names: after `park_spread`, whose tables it reads
CREATE TRIGGER park_spread_terms AFTER INSERT ON park_version FOR EACH ROW EXECUTE FUNCTION park_spread_terms_new();
SELECT park_spread_terms(id, document) FROM park_version;

-- ---------------------------------------------------------------------------------------------------------------------
-- Coarser data: a bucket is computed once, when a window after it is stored, and again when one of its windows is revised

CREATE TABLE rollup_pending (
    step_s integer NOT NULL CHECK (step_s > 0),
    bucket timestamptz NOT NULL,
    PRIMARY KEY (step_s, bucket)
);
COMMENT ON TABLE rollup_pending IS 'Buckets that change yet: the views compute them from the windows';

CREATE TABLE window_rollup (
    step_s      integer NOT NULL CHECK (step_s > 0),
    bucket      timestamptz NOT NULL,
    windows     integer NOT NULL,
    revised     integer NOT NULL,
    seconds     double precision NOT NULL,
    readings    bigint NOT NULL,
    lag_s       double precision,                            -- the longest from a window's end to its result
    global_test double precision,                            -- mean, relative to its degrees of freedom
    PRIMARY KEY (step_s, bucket)
);

CREATE TABLE exchange_rollup (
    step_s         integer NOT NULL CHECK (step_s > 0),
    bucket         timestamptz NOT NULL,
    exchange       text NOT NULL,
    unit           text NOT NULL,
    windows        integer NOT NULL,
    agreed         integer NOT NULL,                         -- windows in agreement
    seconds        double precision NOT NULL,                -- with a reconciled value
    sender         double precision,
    sender_u95     double precision,                         -- mean of the windows': as if wholly systematic
    receiver       double precision,
    receiver_u95   double precision,
    reconciled     double precision,
    reconciled_u95 double precision,
    PRIMARY KEY (exchange, step_s, bucket, unit)
);
CREATE INDEX exchange_rollup_by_bucket ON exchange_rollup (step_s, bucket);

CREATE TABLE node_rollup (
    step_s    integer NOT NULL CHECK (step_s > 0),
    bucket    timestamptz NOT NULL,
    node      text NOT NULL,
    quantity  text NOT NULL,
    unit      text NOT NULL,
    imbalance double precision,
    stored    double precision,
    std       double precision,
    statistic double precision,                              -- the largest |imbalance| / std
    PRIMARY KEY (node, quantity, step_s, bucket, unit)
);
CREATE INDEX node_rollup_by_bucket ON node_rollup (step_s, bucket);

CREATE TABLE meter_rollup (
    step_s    integer NOT NULL CHECK (step_s > 0),
    bucket    timestamptz NOT NULL,
    meter     text NOT NULL,
    unit      text NOT NULL,
    windows   integer NOT NULL,
    measured  double precision,
    low       double precision,
    high      double precision,
    expected  double precision,
    statistic double precision,                              -- the largest |test statistic|
    suspect   boolean NOT NULL,
    PRIMARY KEY (meter, step_s, bucket, unit)
);
CREATE INDEX meter_rollup_by_bucket ON meter_rollup (step_s, bucket) INCLUDE (meter, windows);

-- What a pending bucket holds so far. Filling the tables above and looking at the newest bucket are the same formula.
CREATE VIEW window_tail AS
SELECT p.step_s, p.bucket, r.*
  FROM rollup_pending p
 CROSS JOIN LATERAL (
       SELECT count(*)::integer AS windows, count(*) FILTER (WHERE revision > 0)::integer AS revised,
              sum(extract(epoch FROM window_end - window_start))::double precision AS seconds,
              sum(readings)::bigint AS readings,
              max(extract(epoch FROM computed_at - window_end)) FILTER (WHERE revision = 0)::double precision AS lag_s,
              avg(global_test / nullif(degrees_of_freedom, 0)) AS global_test
         FROM balance_window
        WHERE window_start >= p.bucket AND window_start < p.bucket + p.step_s * interval '1 second'
       HAVING count(*) > 0) r;

CREATE VIEW exchange_tail AS
SELECT p.step_s, p.bucket, r.*
  FROM rollup_pending p
 CROSS JOIN LATERAL (
       SELECT e.exchange, e.unit, count(*)::integer AS windows, count(*) FILTER (WHERE e.in_agreement)::integer AS agreed,
              coalesce(sum(extract(epoch FROM w.window_end - w.window_start))
                       FILTER (WHERE e.reconciled IS NOT NULL), 0)::double precision AS seconds,
              avg(e.sender) AS sender, avg(e.sender_u95) AS sender_u95,
              avg(e.receiver) AS receiver, avg(e.receiver_u95) AS receiver_u95,
              avg(e.reconciled) AS reconciled, avg(e.reconciled_u95) AS reconciled_u95
         FROM exchange_flow e JOIN balance_window w USING (window_start)
        WHERE e.window_start >= p.bucket AND e.window_start < p.bucket + p.step_s * interval '1 second'
        GROUP BY e.exchange, e.unit) r;

CREATE VIEW node_tail AS
SELECT p.step_s, p.bucket, r.*
  FROM rollup_pending p
 CROSS JOIN LATERAL (
       SELECT node, quantity, unit, avg(imbalance) AS imbalance, avg(stored) AS stored, avg(std) AS std,
              max(abs(imbalance) / nullif(std, 0)) AS statistic
         FROM node_balance
        WHERE window_start >= p.bucket AND window_start < p.bucket + p.step_s * interval '1 second'
        GROUP BY node, quantity, unit) r;

CREATE VIEW meter_tail AS
SELECT p.step_s, p.bucket, r.*
  FROM rollup_pending p
 CROSS JOIN LATERAL (
       SELECT meter, unit, count(measured)::integer AS windows, avg(measured) AS measured, min(measured) AS low,
              max(measured) AS high, avg(expected) AS expected, max(abs(test_statistic)) AS statistic,
              bool_or(suspect) AS suspect
         FROM meter_result
        WHERE window_start >= p.bucket AND window_start < p.bucket + p.step_s * interval '1 second'
        GROUP BY meter, unit) r;

CREATE FUNCTION rollup_advance() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    newest timestamptz := (SELECT max(window_start) FROM balance_window);
    done   timestamptz[];
    step   integer;
BEGIN
    FOREACH step IN ARRAY ARRAY[300, 3600] LOOP
        done := ARRAY(SELECT bucket FROM rollup_pending
                       WHERE step_s = step AND bucket + step * interval '1 second' <= newest);
        CONTINUE WHEN done = '{}';
        DELETE FROM window_rollup WHERE step_s = step AND bucket = ANY (done);
        DELETE FROM exchange_rollup WHERE step_s = step AND bucket = ANY (done);
        DELETE FROM node_rollup WHERE step_s = step AND bucket = ANY (done);
        DELETE FROM meter_rollup WHERE step_s = step AND bucket = ANY (done);
        INSERT INTO window_rollup
        SELECT step_s, bucket, windows, revised, seconds, readings, lag_s, global_test
          FROM window_tail WHERE step_s = step AND bucket = ANY (done);
        INSERT INTO exchange_rollup
        SELECT step_s, bucket, exchange, unit, windows, agreed, seconds, sender, sender_u95, receiver, receiver_u95,
               reconciled, reconciled_u95
          FROM exchange_tail WHERE step_s = step AND bucket = ANY (done);
        INSERT INTO node_rollup
        SELECT step_s, bucket, node, quantity, unit, imbalance, stored, std, statistic
          FROM node_tail WHERE step_s = step AND bucket = ANY (done);
        INSERT INTO meter_rollup
        SELECT step_s, bucket, meter, unit, windows, measured, low, high, expected, statistic, suspect
          FROM meter_tail WHERE step_s = step AND bucket = ANY (done);
        DELETE FROM rollup_pending WHERE step_s = step AND bucket = ANY (done);
    END LOOP;
END
$$;
COMMENT ON FUNCTION rollup_advance IS 'Computes the pending buckets that lie before the newest window';

CREATE FUNCTION rollup_window() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rollup_pending (step_s, bucket)
    SELECT step, date_bin(step * interval '1 second', NEW.window_start, timestamptz '2000-01-01 00:00Z')
      FROM unnest(ARRAY[300, 3600]) AS s(step)
        ON CONFLICT DO NOTHING;
    PERFORM rollup_advance();
    RETURN NULL;
END
$$;

-- Deferred to the end of the transaction that stores a window: its other rows are written after this one.
CREATE CONSTRAINT TRIGGER rollup_window AFTER INSERT ON balance_window
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rollup_window();

INSERT INTO rollup_pending (step_s, bucket)
SELECT DISTINCT step, date_bin(step * interval '1 second', window_start, timestamptz '2000-01-01 00:00Z')
  FROM balance_window CROSS JOIN unnest(ARRAY[300, 3600]) AS s(step);
SELECT rollup_advance();

-- ---------------------------------------------------------------------------------------------------------------------
-- Views: one for each question

-- Which park is it, and how does it keep time and money?
CREATE VIEW park_info AS
SELECT p.name, s.timezone, s.currency, s.window_s, p.loaded_at, p.park_version
  FROM park_now p JOIN park_setting s USING (park_version);

-- How do the windows come along, over long ranges?
CREATE VIEW window_series AS
SELECT 0 AS step_s, window_start AS time, 1 AS windows, (revision > 0)::integer AS revised,
       readings / extract(epoch FROM window_end - window_start)::double precision AS readings_per_s,
       CASE WHEN revision = 0 THEN extract(epoch FROM computed_at - window_end)::double precision END AS lag_s,
       global_test / nullif(degrees_of_freedom, 0) AS global_test_ratio
  FROM balance_window
 UNION ALL
SELECT step_s, bucket, windows, revised, readings / nullif(seconds, 0), lag_s, global_test FROM window_rollup
 UNION ALL
SELECT step_s, bucket, windows, revised, readings / nullif(seconds, 0), lag_s, global_test FROM window_tail;

-- How did an exchange run, in settled units an hour, over long ranges?
CREATE VIEW exchange_series AS
SELECT s.step_s, s.time, s.exchange, x.name, t.rate_unit,
       s.sender * t.rate_per_si AS sender, s.sender_u95 * t.rate_per_si AS sender_u95,
       s.receiver * t.rate_per_si AS receiver, s.receiver_u95 * t.rate_per_si AS receiver_u95,
       s.reconciled * t.rate_per_si AS reconciled, s.reconciled_u95 * t.rate_per_si AS reconciled_u95,
       s.agreed
  FROM (SELECT 0 AS step_s, window_start AS time, exchange, sender, sender_u95, receiver, receiver_u95, reconciled,
               reconciled_u95, in_agreement::integer::double precision AS agreed
          FROM exchange_flow
         UNION ALL
        SELECT step_s, bucket, exchange, sender, sender_u95, receiver, receiver_u95, reconciled, reconciled_u95,
               agreed::double precision / windows
          FROM exchange_rollup
         UNION ALL
        SELECT step_s, bucket, exchange, sender, sender_u95, receiver, receiver_u95, reconciled, reconciled_u95,
               agreed::double precision / windows
          FROM exchange_tail) s
  JOIN park_now n ON true
  JOIN park_terms t ON t.park_version = n.park_version AND t.exchange = s.exchange
  JOIN park_exchange x ON x.park_version = n.park_version AND x.exchange = s.exchange;

-- How did a node balance, over long ranges? `statistic` is the nodal test: |imbalance| / std, the largest of a bucket.
CREATE VIEW node_series AS
SELECT s.step_s, s.time, s.node, n.name, n.participant, s.quantity, s.unit, s.imbalance, s.stored, s.std, s.statistic
  FROM (SELECT 0 AS step_s, window_start AS time, node, quantity, unit, imbalance, stored, std,
               abs(imbalance) / nullif(std, 0) AS statistic
          FROM node_balance
         UNION ALL
        SELECT step_s, bucket, node, quantity, unit, imbalance, stored, std, statistic FROM node_rollup
         UNION ALL
        SELECT step_s, bucket, node, quantity, unit, imbalance, stored, std, statistic FROM node_tail) s
  JOIN park_now p ON true
  JOIN park_node n ON n.park_version = p.park_version AND n.node = s.node;

-- How did a meter do, in its own unit, over long ranges? Counters and tanks are shown by their rate, in SI.
CREATE VIEW meter_scale AS
SELECT m.meter, m.participant, m.stream, m.quantity, m.side, m.position,
       CASE WHEN is_rate THEN NULL ELSE m.unit END AS unit,
       CASE WHEN is_rate THEN 1 ELSE u.si_scale END AS si_scale,
       CASE WHEN is_rate THEN 0 ELSE u.si_offset END AS si_offset
  FROM park_meter m
  JOIN park_now USING (park_version)
 CROSS JOIN LATERAL (SELECT m.quantity IN ('mass_total', 'volume_total', 'energy_total', 'inventory', 'mass_batch')) AS r(is_rate)
  JOIN unit_list u ON u.unit = m.unit;

CREATE VIEW meter_series AS
SELECT s.step_s, s.time, s.meter, c.participant, c.stream, c.quantity, coalesce(c.unit, s.unit) AS unit,
       (s.measured - c.si_offset) / c.si_scale AS measured,
       (s.expected - c.si_offset) / c.si_scale AS expected,
       s.statistic, s.suspect
  FROM (SELECT 0 AS step_s, window_start AS time, meter, unit, measured, expected, abs(test_statistic) AS statistic, suspect
          FROM meter_result
         UNION ALL
        SELECT step_s, bucket, meter, unit, measured, expected, statistic, suspect FROM meter_rollup
         UNION ALL
        SELECT step_s, bucket, meter, unit, measured, expected, statistic, suspect FROM meter_tail) s
  JOIN meter_scale c ON c.meter = s.meter;

-- Which agreed limits are there, and which meters watch them?
CREATE VIEW limit_list AS
SELECT l.exchange, x.name, x.kind, l.property, l.unit, l.low, l.high, l.position
  FROM park_limit l
  JOIN park_now USING (park_version)
  JOIN park_exchange x USING (park_version, exchange);

-- How did an agreed property run against its limits, in the agreement's unit, over long ranges?
CREATE VIEW quality_series AS
SELECT s.step_s, s.time, l.exchange, x.name, l.property, l.unit,
       (coalesce(avg(s.measured) FILTER (WHERE m.settles), avg(s.measured)) - l.si_offset) / l.si_scale AS value,
       l.low, l.high
  FROM park_limit l
  JOIN park_now USING (park_version)
  JOIN park_exchange x USING (park_version, exchange)
  JOIN park_limit_meter m USING (park_version, exchange, property)
  JOIN (SELECT 0 AS step_s, window_start AS time, meter, measured FROM meter_result
         UNION ALL
        SELECT step_s, bucket, meter, measured FROM meter_rollup
         UNION ALL
        SELECT step_s, bucket, meter, measured FROM meter_tail) s ON s.meter = m.meter
 GROUP BY s.step_s, s.time, l.exchange, x.name, l.property, l.unit, l.si_offset, l.si_scale, l.low, l.high;

-- Where does every agreed property stand now? `position` is 0 at the low and 1 at the high limit, where there are both.
CREATE VIEW quality_now AS
SELECT q.*, CASE WHEN q.value IS NULL THEN 'no value' WHEN q.value < q.low THEN 'below' WHEN q.value > q.high THEN 'above'
                 ELSE 'inside' END AS state,
       (q.value - q.low) / nullif(q.high - q.low, 0) AS band_position
  FROM (SELECT w.window_start AS time, l.exchange, x.name, l.property, l.unit, l.low, l.high,
               (coalesce(avg(r.measured) FILTER (WHERE m.settles), avg(r.measured)) - l.si_offset) / l.si_scale AS value,
               string_agg(m.meter, ' ' ORDER BY m.settles DESC, m.meter) AS meters, l.position
          FROM park_limit l
          JOIN park_now USING (park_version)
          JOIN park_exchange x USING (park_version, exchange)
          LEFT JOIN park_limit_meter m USING (park_version, exchange, property)
          LEFT JOIN LATERAL (SELECT window_start FROM balance_window ORDER BY window_start DESC LIMIT 1) w ON true
          LEFT JOIN meter_result r ON r.meter = m.meter AND r.window_start = w.window_start
         GROUP BY w.window_start, l.exchange, x.name, l.property, l.unit, l.low, l.high, l.si_offset, l.si_scale,
                  l.position) q;

-- What is exchanged at the present rate, and what does that avoid and cost? Per hour.
CREATE VIEW exchange_rate_now AS
SELECT x.exchange, x.name, x.kind, x.from_participant, x.to_participant, x.from_name, x.to_name, x.window_start AS time,
       t.rate_unit, x.reconciled * t.rate_per_si AS rate, x.reconciled_u95 * t.rate_per_si AS rate_u95,
       x.sender * t.rate_per_si AS sender, x.receiver * t.rate_per_si AS receiver,
       (x.receiver - x.sender) / nullif(abs(x.sender), 0) AS difference, t.tolerance, x.in_agreement,
       x.reconciled * t.rate_per_si * t.price AS money_per_h,
       x.reconciled * t.rate_per_si * t.cost AS saved_cost_per_h,
       x.reconciled * t.rate_per_si * t.co2_kg AS avoided_co2_kg_h,
       x.reconciled * t.rate_per_si * t.water_m3 AS avoided_water_m3_h,
       x.reconciled * t.rate_per_si * t.material_t AS avoided_material_t_h, x.position
  FROM exchange_now x
  JOIN park_now n ON true
  JOIN park_terms t ON t.park_version = n.park_version AND t.exchange = x.exchange;

-- What did the exchanges avoid and move, per hour, over long ranges?
CREATE VIEW footprint_series AS
SELECT s.step_s, s.time, s.exchange, s.name, x.kind, s.reconciled * t.price AS money_per_h,
       s.reconciled * t.cost AS saved_cost_per_h, s.reconciled * t.co2_kg AS avoided_co2_kg_h,
       s.reconciled * t.water_m3 AS avoided_water_m3_h, s.reconciled * t.material_t AS avoided_material_t_h
  FROM exchange_series s
  JOIN park_now n ON true
  JOIN park_terms t ON t.park_version = n.park_version AND t.exchange = s.exchange
  JOIN park_exchange x ON x.park_version = n.park_version AND x.exchange = s.exchange;

-- What was exchanged each day, of the park's own days? Not a statement: what is settled is elsewhere.
CREATE VIEW exchange_day AS
SELECT date_trunc('day', s.bucket, p.timezone) AS time, s.exchange, x.unit,
       sum(s.sender * s.seconds) * t.rate_per_si / 3600 AS sender,
       sum(s.receiver * s.seconds) * t.rate_per_si / 3600 AS receiver,
       sum(s.reconciled * s.seconds) * t.rate_per_si / 3600 AS reconciled,
       sum(s.reconciled_u95 * s.seconds) * t.rate_per_si / 3600 AS reconciled_u95,
       sum(s.reconciled * s.seconds) * t.rate_per_si / 3600 * t.price AS money,
       sum(s.seconds) / 3600 AS hours
  FROM (SELECT bucket, exchange, seconds, sender, receiver, reconciled, reconciled_u95
          FROM exchange_rollup WHERE step_s = 300
         UNION ALL
        SELECT bucket, exchange, seconds, sender, receiver, reconciled, reconciled_u95
          FROM exchange_tail WHERE step_s = 300) s
  JOIN park_now n ON true
  JOIN park_setting p ON p.park_version = n.park_version
  JOIN park_terms t ON t.park_version = n.park_version AND t.exchange = s.exchange
  JOIN park_exchange x ON x.park_version = n.park_version AND x.exchange = s.exchange
 GROUP BY date_trunc('day', s.bucket, p.timezone), s.exchange, x.unit, t.rate_per_si, t.price;

-- The network as a graph: participants, and what goes from one to another. One edge for each kind and unit between two
-- participants, so that no edge hides another of the same kind; its amount is their sum.
CREATE VIEW network_edge AS
SELECT from_participant || ' > ' || to_participant || ' ' || kind || ' ' || rate_unit AS id,
       from_participant AS source, to_participant AS target, kind, rate_unit,
       round(sum(rate)::numeric, 2)::double precision AS rate,
       max(abs(difference)) AS difference,
       CASE WHEN bool_and(in_agreement) THEN 'agreed' WHEN bool_or(NOT in_agreement) THEN 'out of agreement'
            ELSE 'no value' END AS state,
       string_agg(name, ', ' ORDER BY position) AS names, count(*)::integer AS exchanges,
       max(exchange) FILTER (WHERE NOT in_agreement) AS deviating,
       min(exchange) AS first_exchange
  FROM exchange_rate_now
 WHERE from_participant IS NOT NULL AND to_participant IS NOT NULL
 GROUP BY from_participant, to_participant, kind, rate_unit;

CREATE VIEW network_node AS
SELECT p.participant AS id, p.name, p.latitude, p.longitude, count(x.exchange)::integer AS exchanges,
       (count(*) FILTER (WHERE x.in_agreement))::double precision / greatest(count(x.exchange), 1) AS agreed,
       (count(*) FILTER (WHERE NOT x.in_agreement))::double precision / greatest(count(x.exchange), 1) AS deviating,
       CASE WHEN count(x.exchange) = 0 THEN 1
            ELSE (count(*) FILTER (WHERE x.exchange IS NOT NULL AND x.in_agreement IS NULL))::double precision
                 / count(x.exchange) END AS unknown,
       (SELECT max(abs(b.imbalance) / nullif(b.std, 0)) FROM node_now b WHERE b.participant = p.participant) AS statistic,
       p.position
  FROM participant_list p
  LEFT JOIN exchange_now x ON p.participant IN (x.from_participant, x.to_participant)
 GROUP BY p.participant, p.name, p.latitude, p.longitude, p.position;

-- Which exchange does an event concern? Of a meter, those settled over its stream.
CREATE VIEW event_view AS
SELECT e.event, e.kind, e.subject, e.subject_name, e.aspect, e.started_at, e.ended_at, e.severity, e.state, e.value,
       e.limit_value, e.message, e.evidence, e.participant, e.other_participant,
       CASE e.severity WHEN 'critical' THEN 4 WHEN 'high' THEN 3 WHEN 'medium' THEN 2 ELSE 1 END AS rank,
       coalesce(x.exchange, (SELECT min(s.exchange) FROM park_meter m JOIN park_exchange_stream s USING (park_version, stream)
                              WHERE m.park_version = e.park_version AND m.meter = e.subject)) AS exchange,
       m.meter, e.ended_at IS NULL AS is_open,
       (extract(epoch FROM e.started_at - interval '10 minutes') * 1000)::bigint AS from_ms,
       (extract(epoch FROM coalesce(e.ended_at, w.window_end) + interval '10 minutes') * 1000)::bigint AS to_ms
  FROM event_list e
  LEFT JOIN park_exchange x ON x.park_version = e.park_version AND x.exchange = e.subject
  LEFT JOIN park_meter m ON m.park_version = e.park_version AND m.meter = e.subject
  LEFT JOIN LATERAL (SELECT window_end FROM balance_window ORDER BY window_start DESC LIMIT 1) w ON true;

-- What must somebody be told? One row for each thing that deviates, or did until an hour ago, so that alerts clear.
CREATE VIEW event_alert AS
SELECT kind, subject, aspect, coalesce(participant, '') AS participant,
       coalesce(other_participant, '') AS other_participant, coalesce(exchange, '') AS exchange,
       (array_agg(severity ORDER BY is_open DESC, rank DESC))[1] AS severity,
       bool_or(is_open)::integer AS is_open, max(started_at) AS started_at,
       (array_agg(message ORDER BY is_open DESC, started_at DESC))[1] AS message
  FROM event_view
 WHERE is_open AND state NOT IN ('shelved', 'suppressed', 'out_of_service')
    OR ended_at > (SELECT max(window_end) FROM balance_window
                    WHERE window_start = (SELECT max(window_start) FROM balance_window)) - interval '1 hour'
 GROUP BY kind, subject, aspect, participant, other_participant, exchange;

-- How many windows of a range did a meter have a value in? Asked of the series: `count` over `window_series.windows`.
CREATE VIEW meter_presence AS
SELECT step_s, bucket AS time, meter, windows FROM meter_rollup
 UNION ALL
SELECT step_s, bucket, meter, windows FROM meter_tail;

-- At which temperatures does heat go from one participant to another?
CREATE VIEW heat_grade_now AS
SELECT f.stream, f.name, f.from_participant, f.to_participant, f.reconciled AS heat_kw, f.reconciled / 1000 AS heat_mw,
       g.temperature_degc, g.grade, f.window_start AS time, f.position
  FROM flow_now f
  JOIN LATERAL (SELECT avg(r.measured) - 273.15 AS temperature_degc
                  FROM park_now JOIN park_meter m USING (park_version)
                  JOIN meter_result r ON r.meter = m.meter AND r.window_start = f.window_start
                 WHERE m.stream = f.stream AND m.quantity = 'temperature') v ON v.temperature_degc IS NOT NULL
 CROSS JOIN LATERAL (SELECT v.temperature_degc,
                            CASE WHEN v.temperature_degc >= 200 THEN '1: above 200 °C'
                                 WHEN v.temperature_degc >= 100 THEN '2: 100 to 200 °C'
                                 WHEN v.temperature_degc >= 60 THEN '3: 60 to 100 °C'
                                 WHEN v.temperature_degc >= 30 THEN '4: 30 to 60 °C'
                                 ELSE '5: below 30 °C' END AS grade) g
 WHERE f.quantity = 'heat_flow' AND f.side = 'sender' AND f.from_participant <> f.to_participant;

-- What happens to the water between participants?
CREATE VIEW water_use_now AS
SELECT r.exchange, r.name, r.from_participant, r.to_participant,
       CASE r.rate_unit WHEN 'l/h' THEN 0.001 WHEN 'kg/h' THEN 0.001 ELSE 1 END * r.rate AS water_m3_h,
       CASE WHEN r.avoided_water_m3_h <> 0 THEN 'used again' ELSE 'fresh' END AS use, r.time, r.position
  FROM exchange_rate_now r WHERE r.kind = 'water';

-- ---------------------------------------------------------------------------------------------------------------------
-- The reader: sees the views and nothing else. A login for Grafana is made a member of it:
--   CREATE ROLE grafana LOGIN PASSWORD '...' IN ROLE symbiosis_reader;

CREATE FUNCTION grant_reader() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    hidden CONSTANT text[] := ARRAY['window_tail', 'exchange_tail', 'node_tail', 'meter_tail', 'reading_list'];
    entry  record;
    given  integer := 0;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO symbiosis_reader', current_schema());
    FOR entry IN SELECT c.relname FROM pg_class c
                  WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'v'
                    AND c.relname <> ALL (hidden) AND pg_has_role(c.relowner, 'USAGE') LOOP
        EXECUTE format('GRANT SELECT ON %I.%I TO symbiosis_reader', current_schema(), entry.relname);
        given := given + 1;
    END LOOP;
    RETURN given;
END
$$;
COMMENT ON FUNCTION grant_reader IS 'Lets symbiosis_reader see the views; for databases whose owner may not create roles';

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'symbiosis_reader') THEN
        BEGIN
            CREATE ROLE symbiosis_reader NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;      -- another database of this server made it just now
            WHEN insufficient_privilege THEN
                RAISE WARNING 'role % may not create the role symbiosis_reader, so boards have no reader yet '
                    '(hint: an administrator runs CREATE ROLE symbiosis_reader NOLOGIN, then its owner SELECT grant_reader())',
                    current_user;
                RETURN;
        END;
    END IF;
    PERFORM grant_reader();
END
$$;
