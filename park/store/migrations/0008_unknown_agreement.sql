-- Whether an exchange is as agreed is not known where nothing is known of it; and which balances a leak leaves open.

ALTER TABLE exchange_flow ALTER COLUMN in_agreement DROP NOT NULL;
UPDATE exchange_flow SET in_agreement = NULL
 WHERE in_agreement AND sender IS NULL AND receiver IS NULL AND reconciled IS NULL;

ALTER TABLE balance_window ADD COLUMN leaking text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN balance_window.leaking IS 'Leaks that leave balances open, each as node and quantity';

CREATE OR REPLACE VIEW window_log AS
SELECT window_start, window_end, closed_by, readings, last_source_time, computed_at, revision, park_version,
       global_test, degrees_of_freedom, max_relative_imbalance, taken_out, leaking
  FROM balance_window;

-- `windows` of an exchange are those in which something was known of it.
CREATE OR REPLACE VIEW exchange_tail AS
SELECT p.step_s, p.bucket, r.*
  FROM rollup_pending p
 CROSS JOIN LATERAL (
       SELECT e.exchange, e.unit, count(e.in_agreement)::integer AS windows,
              count(*) FILTER (WHERE e.in_agreement)::integer AS agreed,
              coalesce(sum(extract(epoch FROM w.window_end - w.window_start))
                       FILTER (WHERE e.reconciled IS NOT NULL), 0)::double precision AS seconds,
              avg(e.sender) AS sender, avg(e.sender_u95) AS sender_u95,
              avg(e.receiver) AS receiver, avg(e.receiver_u95) AS receiver_u95,
              avg(e.reconciled) AS reconciled, avg(e.reconciled_u95) AS reconciled_u95
         FROM exchange_flow e JOIN balance_window w USING (window_start)
        WHERE e.window_start >= p.bucket AND e.window_start < p.bucket + p.step_s * interval '1 second'
        GROUP BY e.exchange, e.unit) r;

CREATE OR REPLACE VIEW exchange_series AS
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
               agreed::double precision / nullif(windows, 0)
          FROM exchange_rollup
         UNION ALL
        SELECT step_s, bucket, exchange, sender, sender_u95, receiver, receiver_u95, reconciled, reconciled_u95,
               agreed::double precision / nullif(windows, 0)
          FROM exchange_tail) s
  JOIN park_now n ON true
  JOIN park_terms t ON t.park_version = n.park_version AND t.exchange = s.exchange
  JOIN park_exchange x ON x.park_version = n.park_version AND x.exchange = s.exchange;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'symbiosis_reader') THEN
        PERFORM grant_reader();
    END IF;
END
$$;
