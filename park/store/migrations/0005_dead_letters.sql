-- What came to the collector and is no reading, kept so that it can be read again after a fix.

CREATE TABLE dead_letter (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source        text NOT NULL,                -- opcua:<endpoint as configured> | mqtt
    subject       text NOT NULL,                -- MQTT topic, or what it was about
    meter         text,                         -- null: not known, or all meters of the topic
    reason        text NOT NULL,                -- a fixed text, without the value
    format        text NOT NULL CHECK (format IN ('mqtt', 'opcua', 'text')),     -- how payload is read; text: for people
    payload       bytea NOT NULL,               -- as it came; of a large one the beginning
    payload_bytes bigint NOT NULL,              -- size as it came
    received_at   timestamptz NOT NULL,         -- the run's clock
    replayed_at   timestamptz,                  -- null: its readings are not stored
    CHECK (payload_bytes >= octet_length(payload))
);
CREATE INDEX dead_letter_open ON dead_letter (id) WHERE replayed_at IS NULL;
COMMENT ON TABLE dead_letter IS 'What came and is no reading, with its reason; replayed with symbiosis deadletters replay';

-- What was rejected, and why?
CREATE VIEW dead_letter_list AS
SELECT id AS dead_letter, received_at, source, subject, meter, reason, format, payload_bytes,
       octet_length(payload) < payload_bytes AS is_cut, replayed_at,
       encode(substring(payload FROM 1 FOR 200), 'escape') AS excerpt
  FROM dead_letter;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'symbiosis_reader') THEN
        PERFORM grant_reader();
    END IF;
END
$$;
