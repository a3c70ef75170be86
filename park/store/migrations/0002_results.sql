-- What processing makes of the readings: one immutable window at a time, written in one transaction with the
-- events and the state that belong to it. Nothing here forbids a hypertable: unique keys hold the time column,
-- and nothing refers to a table of times. Numbers are SI; times are of the run's clock.

CREATE TABLE balance_window (
    window_start            timestamptz PRIMARY KEY,
    window_end              timestamptz NOT NULL,
    closed_by               text NOT NULL CHECK (closed_by IN ('complete', 'lateness', 'revised')),
    readings                integer NOT NULL,                -- usable readings that it was computed from
    last_source_time        timestamptz,                     -- of those readings
    computed_at             timestamptz NOT NULL,
    revision                integer NOT NULL DEFAULT 0,      -- how often readings that came late changed it
    park_version            bigint NOT NULL,
    global_test             double precision,
    degrees_of_freedom      integer,
    max_relative_imbalance  double precision,                -- of the reconciled balances: |in - out - stored| / throughput
    taken_out               text[] NOT NULL DEFAULT '{}'     -- meters left out of the balances: silent, stuck, or named as biased
);

CREATE TABLE flow (
    window_start  timestamptz NOT NULL,
    stream        text NOT NULL,
    side          text NOT NULL CHECK (side IN ('sender', 'receiver')),
    quantity      text NOT NULL CHECK (quantity IN ('mass_flow', 'heat_flow')),
    unit          text NOT NULL,
    measured      double precision,
    reconciled    double precision,
    std           double precision,
    adjustment    double precision,
    status        text NOT NULL CHECK (status IN ('redundant', 'nonredundant', 'observable', 'unobservable')),
    coverage      double precision,
    best_meter    text,                                      -- usable meter with the smallest u95 of this flow
    best_measured double precision,
    park_version  bigint NOT NULL,
    PRIMARY KEY (window_start, stream, side, quantity)
);
CREATE INDEX flow_by_stream ON flow (stream, side, quantity, window_start DESC);

CREATE TABLE node_balance (
    window_start         timestamptz NOT NULL,
    node                 text NOT NULL,
    quantity             text NOT NULL,                      -- mass | energy | component.<name>
    unit                 text NOT NULL,
    imbalance            double precision,                   -- of the raw values: in minus out, minus what was stored
    stored               double precision,
    std                  double precision,                   -- of the imbalance
    reconciled_imbalance double precision,
    park_version         bigint NOT NULL,
    PRIMARY KEY (window_start, node, quantity)
);
CREATE INDEX node_balance_by_node ON node_balance (node, quantity, window_start DESC);

CREATE TABLE meter_result (
    window_start   timestamptz NOT NULL,
    meter          text NOT NULL,
    unit           text NOT NULL,
    measured       double precision,
    expected       double precision,                         -- what the reconciled park says it should have read
    test_statistic double precision,                         -- measurement test, standard normal if all is well
    suspect        boolean NOT NULL DEFAULT false,
    park_version   bigint NOT NULL,
    PRIMARY KEY (window_start, meter)
);
CREATE INDEX meter_result_by_meter ON meter_result (meter, window_start DESC);

CREATE TABLE exchange_flow (
    window_start   timestamptz NOT NULL,
    exchange       text NOT NULL,
    unit           text NOT NULL,                            -- kg/s, m3/s or kW by what the exchange settles
    sender         double precision,
    sender_u95     double precision,
    receiver       double precision,
    receiver_u95   double precision,
    reconciled     double precision,                         -- at the end where it is settled
    reconciled_u95 double precision,
    in_agreement   boolean NOT NULL,
    park_version   bigint NOT NULL,
    PRIMARY KEY (window_start, exchange)
);
CREATE INDEX exchange_flow_by_exchange ON exchange_flow (exchange, window_start DESC);

-- state follows ISA-18.2: unacknowledged and acknowledged while it lasts, returned when it ended unacknowledged,
-- normal when it ended and was acknowledged.
CREATE TABLE event (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL,
    subject      text NOT NULL,
    aspect       text NOT NULL DEFAULT '',                   -- what of the subject: a quality property; else empty
    started_at   timestamptz NOT NULL,
    ended_at     timestamptz,
    severity     text NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    state        text NOT NULL CHECK (state IN
                     ('unacknowledged', 'acknowledged', 'returned', 'normal', 'shelved', 'suppressed', 'out_of_service')),
    value        double precision,
    limit_value  double precision,
    message      text NOT NULL,
    evidence     jsonb NOT NULL DEFAULT '{}',
    park_version bigint NOT NULL
);
CREATE UNIQUE INDEX event_open ON event (kind, subject, aspect) WHERE ended_at IS NULL;
CREATE INDEX event_by_start ON event (started_at DESC);

CREATE TABLE processing_state (
    key   text PRIMARY KEY,                                  -- see processing/cycle.py
    value jsonb NOT NULL
);
