-- The payment service's rows for :n orders.
\set i :i + 1
\set base (:client_id * 1000000000 + :i * 1000)
BEGIN;
INSERT INTO inbox (message_id) SELECT gen_random_uuid() FROM generate_series(1, :n) ON CONFLICT DO NOTHING RETURNING message_id;
SELECT * FROM payments WHERE order_id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g)) ORDER BY order_id FOR UPDATE;
INSERT INTO payments (id, order_id, customer_id, currency, amount, method, state, version, captured, refunded, created_at, updated_at)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, lpad((:base + g)::text, 32, '0')::uuid, 'customer-' || g % 50, 'EUR', 2000, 'pm_card_visa', 'processing', 1, 0, 0, db_now(), db_now() FROM generate_series(1, :n) g;
INSERT INTO operations (id, payment_id, kind, number, key, amount, state, attempts, next_attempt_at, cause_id, correlation_id, traceparent, created_at, updated_at)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, lpad((:base + g)::text, 32, '0')::uuid, 'charge', 1, 'charge:' || :base + g, 2000, 'pending', 0, db_now(), gen_random_uuid(), :base + g, repeat('0', 55), db_now(), db_now() FROM generate_series(1, :n) g;
INSERT INTO outbox (topic, key, payload) SELECT 'payment.events', :base + g, repeat('x', 620)::bytea FROM generate_series(1, :n) g;
COMMIT;
DELETE FROM outbox USING (SELECT set_config('synchronous_commit', 'off', true)) AS as_relays_do WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :n);
BEGIN;
SELECT * FROM operations JOIN payments ON payments.id = payment_id WHERE operations.id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g)) FOR UPDATE OF operations SKIP LOCKED;
UPDATE operations SET attempts = 1, leased_until = db_now() + '60 s', updated_at = db_now()
    WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g));
COMMIT;
BEGIN;
SELECT * FROM payments WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g)) ORDER BY order_id FOR UPDATE;
SELECT * FROM operations WHERE payment_id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g)) ORDER BY id FOR UPDATE;
UPDATE payments SET state = 'captured', version = 2, captured = amount, provider_reference = 'sim_' || id, updated_at = db_now()
    WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g));
UPDATE operations SET state = 'succeeded', next_attempt_at = NULL, leased_until = NULL, updated_at = db_now()
    WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g));
INSERT INTO ledger_journals (operation_id, payment_id, kind, currency, booked_at)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, lpad((:base + g)::text, 32, '0')::uuid, 'capture', 'EUR', db_now() FROM generate_series(1, :n) g;
INSERT INTO ledger_entries (operation_id, account, amount)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, account, amount FROM generate_series(1, :n) g, (VALUES ('provider_clearing', 2000), ('customer_receipts', -2000)) e(account, amount);
INSERT INTO outbox (topic, key, payload) SELECT 'payment.events', :base + g, repeat('x', 620)::bytea FROM generate_series(1, :n) g;
COMMIT;
DELETE FROM outbox USING (SELECT set_config('synchronous_commit', 'off', true)) AS as_relays_do WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :n);
