-- One view for each question that people and tools ask. A view keeps its columns.
-- Names and owners come from the stored park that a result was computed with: its document is spread out into
-- plain tables once, when it is stored.

CREATE TABLE park_participant (
    park_version bigint NOT NULL,
    participant  text NOT NULL,
    name         text NOT NULL,
    latitude     double precision,
    longitude    double precision,
    position     integer NOT NULL,
    PRIMARY KEY (park_version, participant)
);

CREATE TABLE park_node (
    park_version bigint NOT NULL,
    node         text NOT NULL,
    name         text NOT NULL,
    participant  text NOT NULL,
    position     integer NOT NULL,
    PRIMARY KEY (park_version, node)
);

CREATE TABLE park_stream (
    park_version     bigint NOT NULL,
    stream           text NOT NULL,
    name             text NOT NULL,
    from_node        text NOT NULL,
    to_node          text NOT NULL,
    from_participant text,
    to_participant   text,
    carrier          text NOT NULL,
    position         integer NOT NULL,
    PRIMARY KEY (park_version, stream)
);

CREATE TABLE park_meter (
    park_version  bigint NOT NULL,
    meter         text NOT NULL,
    participant   text,
    stream        text,                                      -- of a meter over several streams: the first
    node          text,
    side          text,
    quantity      text NOT NULL,
    unit          text NOT NULL,
    interval_s    double precision NOT NULL,
    position      integer NOT NULL,
    PRIMARY KEY (park_version, meter)
);

CREATE TABLE park_exchange (
    park_version     bigint NOT NULL,
    exchange         text NOT NULL,
    name             text NOT NULL,
    kind             text NOT NULL,
    settles          text NOT NULL,
    unit             text NOT NULL,
    stream           text,                                   -- of a signed set: its first with a plus; null: a share of a total
    from_participant text,
    to_participant   text,
    settled_at       text NOT NULL,
    nominal          double precision,
    nominal_unit     text,
    position         integer NOT NULL,
    PRIMARY KEY (park_version, exchange)
);

-- `jsonb` sorts the keys of an object, so the leading stream of a signed set is the first by name with a plus.
CREATE FUNCTION park_leading_stream(entry jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(
        entry ->> 'stream',
        (SELECT key FROM jsonb_each_text(coalesce(nullif(entry -> 'streams', 'null'), '{}'))
          ORDER BY value::double precision <= 0, key LIMIT 1))
$$;

CREATE FUNCTION park_spread(version bigint, document jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO park_participant
    SELECT version, e ->> 'id', coalesce(nullif(e ->> 'name', ''), e ->> 'id'),
           (e ->> 'latitude')::double precision, (e ->> 'longitude')::double precision, position
      FROM jsonb_array_elements(document -> 'participants') WITH ORDINALITY AS p(e, position);

    INSERT INTO park_node
    SELECT version, e ->> 'id', coalesce(nullif(e ->> 'name', ''), e ->> 'id'), e ->> 'participant', position
      FROM jsonb_array_elements(document -> 'nodes') WITH ORDINALITY AS n(e, position);

    INSERT INTO park_stream
    SELECT version, e ->> 'id', coalesce(nullif(e ->> 'name', ''), e ->> 'id'), ends.from_node, ends.to_node,
           f.participant, t.participant, e ->> 'carrier', s.position
      FROM jsonb_array_elements(document -> 'streams') WITH ORDINALITY AS s(e, position)
     CROSS JOIN LATERAL (SELECT coalesce(e ->> 'from', e ->> 'from_node') AS from_node,
                                coalesce(e ->> 'to', e ->> 'to_node') AS to_node) AS ends
      LEFT JOIN park_node f ON f.park_version = version AND f.node = ends.from_node
      LEFT JOIN park_node t ON t.park_version = version AND t.node = ends.to_node;

    INSERT INTO park_meter
    SELECT version, e ->> 'id',
           coalesce(e ->> 'participant', n.participant,
                    CASE WHEN e ->> 'side' = 'sender' THEN s.from_participant ELSE s.to_participant END),
           s.stream, e ->> 'node', e ->> 'side', e ->> 'quantity', e ->> 'unit',
           coalesce((e ->> 'interval_s')::double precision, 10), m.position
      FROM jsonb_array_elements(document -> 'meters') WITH ORDINALITY AS m(e, position)
      LEFT JOIN park_node n ON n.park_version = version AND n.node = e ->> 'node'
      LEFT JOIN park_stream s ON s.park_version = version AND s.stream = park_leading_stream(e);

    INSERT INTO park_exchange
    SELECT version, e ->> 'id', coalesce(nullif(e ->> 'name', ''), nullif(s.name, ''), e ->> 'id'),
           e ->> 'kind', e ->> 'settles', e ->> 'unit', s.stream, s.from_participant, s.to_participant,
           coalesce(e #>> '{agreement,settled_at}', 'receiver'),
           (e #>> '{agreement,nominal,value}')::double precision, e #>> '{agreement,nominal,unit}', x.position
      FROM jsonb_array_elements(document -> 'exchanges') WITH ORDINALITY AS x(e, position)
      LEFT JOIN park_stream s ON s.park_version = version AND s.stream = park_leading_stream(e);
$$;

CREATE FUNCTION park_spread_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM park_spread(NEW.id, NEW.document);
    RETURN NULL;
END
$$;

CREATE TRIGGER park_spread AFTER INSERT ON park_version FOR EACH ROW EXECUTE FUNCTION park_spread_new();
SELECT park_spread(id, document) FROM park_version;

-- Which park is running: the one that the latest window was computed with, before any window the last one stored.
CREATE VIEW park_now AS
SELECT id AS park_version, name, loaded_at
  FROM park_version
 WHERE id = coalesce((SELECT park_version FROM balance_window ORDER BY window_start DESC LIMIT 1),
                     (SELECT id FROM park_version ORDER BY loaded_at DESC, id DESC LIMIT 1));

-- Who takes part?
CREATE VIEW participant_list AS
SELECT p.participant, p.name, p.latitude, p.longitude, p.position
  FROM park_participant p JOIN park_now USING (park_version);

-- What is agreed to be exchanged, between whom?
CREATE VIEW exchange_list AS
SELECT x.exchange, x.name, x.kind, x.settles, x.unit AS settled_unit, x.stream, x.from_participant, x.to_participant,
       f.name AS from_name, t.name AS to_name, x.settled_at, x.nominal, x.nominal_unit, x.position, x.park_version
  FROM park_exchange x
  JOIN park_now USING (park_version)
  LEFT JOIN park_participant f ON f.park_version = x.park_version AND f.participant = x.from_participant
  LEFT JOIN park_participant t ON t.park_version = x.park_version AND t.participant = x.to_participant;

-- How do the windows come along?
CREATE VIEW window_log AS
SELECT window_start, window_end, closed_by, readings, last_source_time, computed_at, revision, park_version,
       global_test, degrees_of_freedom, max_relative_imbalance, taken_out
  FROM balance_window;

-- What is exchanged now, and is it as agreed?
CREATE VIEW exchange_now AS
SELECT x.exchange, x.name, x.kind, x.settles, x.settled_unit, x.from_participant, x.to_participant, x.from_name, x.to_name,
       r.unit, r.sender, r.sender_u95, r.receiver, r.receiver_u95, r.reconciled, r.reconciled_u95, r.in_agreement,
       r.window_start, w.window_end, x.nominal, x.nominal_unit, x.position
  FROM exchange_list x
  LEFT JOIN LATERAL (SELECT * FROM exchange_flow e WHERE e.exchange = x.exchange
                      ORDER BY e.window_start DESC LIMIT 1) r ON true
  LEFT JOIN balance_window w ON w.window_start = r.window_start;

-- How did an exchange run over time?
CREATE VIEW exchange_history AS
SELECT window_start, exchange, unit, sender, sender_u95, receiver, receiver_u95, reconciled, reconciled_u95,
       in_agreement, park_version
  FROM exchange_flow;

-- Do the nodes balance now?
CREATE VIEW node_now AS
SELECT n.node, n.name, n.participant, p.name AS participant_name, r.quantity, r.unit, r.imbalance, r.stored, r.std,
       r.reconciled_imbalance, r.window_start, w.window_end, n.position
  FROM park_node n
  JOIN park_now USING (park_version)
  LEFT JOIN park_participant p ON p.park_version = n.park_version AND p.participant = n.participant
  JOIN LATERAL (SELECT * FROM balance_window ORDER BY window_start DESC LIMIT 1) w ON true
  JOIN node_balance r ON r.node = n.node AND r.window_start = w.window_start;

-- How did a node balance over time?
CREATE VIEW node_history AS
SELECT window_start, node, quantity, unit, imbalance, stored, std, reconciled_imbalance, park_version
  FROM node_balance;

-- What flows, as measured and as reconciled, over time?
CREATE VIEW flow_history AS
SELECT window_start, stream, side, quantity, unit, measured, reconciled, std, adjustment, status, coverage,
       best_meter, best_measured, park_version
  FROM flow;

-- What flows now?
CREATE VIEW flow_now AS
SELECT s.stream, s.name, s.from_node, s.to_node, s.from_participant, s.to_participant, s.carrier, r.side, r.quantity,
       r.unit, r.measured, r.reconciled, r.std, r.adjustment, r.status, r.coverage, r.best_meter, r.best_measured,
       r.window_start, w.window_end, s.position
  FROM park_stream s
  JOIN park_now USING (park_version)
  JOIN LATERAL (SELECT * FROM balance_window ORDER BY window_start DESC LIMIT 1) w ON true
  JOIN flow r ON r.stream = s.stream AND r.window_start = w.window_start;

-- What flowed on average over everything stored, of the park as it is now?
CREATE VIEW flow_mean AS
SELECT f.stream, f.side, f.quantity, f.unit, avg(f.reconciled) AS reconciled, count(f.reconciled) AS windows,
       min(f.window_start) AS first_window, max(f.window_start) AS last_window
  FROM flow f JOIN park_now USING (park_version)
 GROUP BY f.stream, f.side, f.quantity, f.unit;

-- What deviates or deviated?
CREATE VIEW event_list AS
SELECT e.id AS event, e.kind, e.subject, e.aspect, e.started_at, e.ended_at, e.severity, e.state, e.value, e.limit_value,
       e.message, e.evidence, e.park_version,
       coalesce(x.name, n.name, e.subject) AS subject_name,
       coalesce(m.participant, n.participant, x.from_participant) AS participant,
       x.to_participant AS other_participant
  FROM event e
  LEFT JOIN park_exchange x ON x.park_version = e.park_version AND x.exchange = e.subject
  LEFT JOIN park_meter m ON m.park_version = e.park_version AND m.meter = e.subject
  LEFT JOIN park_node n ON n.park_version = e.park_version AND n.node = e.subject;

-- Which meters answer, and which are suspected?
CREATE VIEW meter_now AS
SELECT m.meter, m.participant, m.stream, m.node, m.side, m.quantity, m.unit AS meter_unit, m.interval_s,
       r.unit, r.measured, r.expected, r.test_statistic, r.suspect, r.window_start,
       EXISTS (SELECT FROM event e WHERE e.kind = 'meter_silent' AND e.subject = m.meter AND e.ended_at IS NULL) AS silent,
       EXISTS (SELECT FROM event e WHERE e.kind = 'meter_stuck' AND e.subject = m.meter AND e.ended_at IS NULL) AS stuck,
       m.position
  FROM park_meter m
  JOIN park_now USING (park_version)
  LEFT JOIN LATERAL (SELECT * FROM balance_window ORDER BY window_start DESC LIMIT 1) w ON true
  LEFT JOIN meter_result r ON r.meter = m.meter AND r.window_start = w.window_start;

-- How did a meter do over time?
CREATE VIEW meter_history AS
SELECT window_start, meter, unit, measured, expected, test_statistic, suspect, park_version
  FROM meter_result;

-- Which sources answer?
CREATE VIEW collector_status AS
SELECT source, protocol, state, since, last_source_time, last_received_at, readings, rejected, detail
  FROM collector_source;

-- What is missing, and why?
CREATE VIEW gap_list AS
SELECT id AS gap, source, meter, started_at, ended_at, cause FROM gap;

-- How much comes in? Over the last minute of run time.
CREATE INDEX arrival_by_received_at ON arrival (received_at);
CREATE VIEW reading_rate AS
SELECT max(a.received_at) AS until, coalesce(sum(a.row_count), 0)::bigint AS readings,
       (coalesce(sum(a.row_count), 0) / 60.0)::double precision AS readings_per_s
  FROM arrival a
 WHERE a.received_at > (SELECT max(received_at) FROM arrival) - interval '1 minute';

-- What was read, and what contradicted it?
CREATE VIEW reading_list AS
SELECT meter, source_time, received_at, value, status FROM reading;

CREATE VIEW reading_conflict_list AS
SELECT id AS conflict, meter, source_time, received_at, value, status, stored_value, stored_status FROM reading_conflict;
