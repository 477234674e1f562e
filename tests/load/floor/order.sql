-- The order service's rows for :n two-line orders, in the transactions that it makes for a batch of them.
\set i :i + 1
\set base (:client_id * 1000000000 + :i * 1000)
BEGIN;
INSERT INTO idempotency_keys (subject, operation, key, fingerprint, resource_id, created)
    SELECT 'customer-' || g % 50, 'place_order', gen_random_uuid()::text, sha256(g::text::bytea), :base + g, true FROM generate_series(1, :n) g;
INSERT INTO orders (id, customer_id, currency, total, payment_method, status, goal, stock, stock_version, payment, payment_version,
                    version, deadline_at, due_at, asks, traceparent, created_at, updated_at)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, 'customer-' || g % 50, 'EUR', 2000, 'pm_card_visa', 'pending', 'fulfil', 'none', 0, 'none', 0,
           1, db_now() + '15 min', db_now() + '2 s', 0, repeat('0', 55), db_now(), db_now() FROM generate_series(1, :n) g;
INSERT INTO order_lines (order_id, position, sku, name, quantity, unit_price, total)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, p, 'SKU-' || g, 'Item SKU-' || g, 2, 500, 1000 FROM generate_series(1, :n) g, generate_series(1, 2) p;
INSERT INTO order_history (order_id, version, at, kind, actor, status, goal, stock, payment, trace_id)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, 1, db_now(), 'placed', 'customer-' || g % 50, 'pending', 'fulfil', 'none', 'none', repeat('0', 32) FROM generate_series(1, :n) g;
INSERT INTO outbox (topic, key, payload) SELECT 'orders.events', :base + g, repeat('x', 620)::bytea FROM generate_series(1, :n) g, generate_series(1, 2) k;
COMMIT;
DELETE FROM outbox USING (SELECT set_config('synchronous_commit', 'off', true)) AS as_relays_do WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT 2 * :n);
\set v 2
BEGIN;
INSERT INTO inbox (message_id) SELECT gen_random_uuid() FROM generate_series(1, :n) ON CONFLICT DO NOTHING RETURNING message_id;
SELECT * FROM orders WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g)) ORDER BY id FOR UPDATE;
UPDATE orders SET stock = 'held', stock_version = 1, payment = 'requested', version = :v, due_at = db_now() + '2 s', updated_at = db_now()
    WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g));
INSERT INTO order_history (order_id, version, at, kind, actor, status, goal, stock, payment, message_id, message_topic, message_partition, message_offset, trace_id)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, :v, db_now(), 'stock_held', 'system', 'pending', 'fulfil', 'held', 'requested', gen_random_uuid(), 'inventory.events', 0, g, repeat('0', 32) FROM generate_series(1, :n) g;
INSERT INTO outbox (topic, key, payload) SELECT 'payment.commands', :base + g, repeat('x', 520)::bytea FROM generate_series(1, :n) g;
COMMIT;
DELETE FROM outbox USING (SELECT set_config('synchronous_commit', 'off', true)) AS as_relays_do WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :n);
\set v 3
BEGIN;
INSERT INTO inbox (message_id) SELECT gen_random_uuid() FROM generate_series(1, :n) ON CONFLICT DO NOTHING RETURNING message_id;
SELECT * FROM orders WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g)) ORDER BY id FOR UPDATE;
UPDATE orders SET payment = 'processing', payment_version = 1, version = :v, due_at = db_now() + '2 s', updated_at = db_now()
    WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g));
INSERT INTO order_history (order_id, version, at, kind, actor, status, goal, stock, payment, message_id, message_topic, message_partition, message_offset, trace_id)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, :v, db_now(), 'payment_processing', 'system', 'pending', 'fulfil', 'held', 'processing', gen_random_uuid(), 'payment.events', 0, g, repeat('0', 32) FROM generate_series(1, :n) g;
COMMIT;
\set v 4
BEGIN;
INSERT INTO inbox (message_id) SELECT gen_random_uuid() FROM generate_series(1, :n) ON CONFLICT DO NOTHING RETURNING message_id;
SELECT * FROM orders WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g)) ORDER BY id FOR UPDATE;
UPDATE orders SET payment = 'captured', payment_version = 2, version = :v, due_at = db_now() + '2 s', updated_at = db_now()
    WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g));
INSERT INTO order_history (order_id, version, at, kind, actor, status, goal, stock, payment, message_id, message_topic, message_partition, message_offset, trace_id)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, :v, db_now(), 'payment_captured', 'system', 'pending', 'fulfil', 'held', 'captured', gen_random_uuid(), 'payment.events', 0, g, repeat('0', 32) FROM generate_series(1, :n) g;
INSERT INTO outbox (topic, key, payload) SELECT 'inventory.commands', :base + g, repeat('x', 400)::bytea FROM generate_series(1, :n) g;
COMMIT;
DELETE FROM outbox USING (SELECT set_config('synchronous_commit', 'off', true)) AS as_relays_do WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :n);
\set v 5
BEGIN;
INSERT INTO inbox (message_id) SELECT gen_random_uuid() FROM generate_series(1, :n) ON CONFLICT DO NOTHING RETURNING message_id;
SELECT * FROM orders WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g)) ORDER BY id FOR UPDATE;
UPDATE orders SET stock = 'committed', stock_version = 2, status = 'confirmed', version = :v, due_at = NULL, updated_at = db_now()
    WHERE id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g));
INSERT INTO order_history (order_id, version, at, kind, actor, status, goal, stock, payment, message_id, message_topic, message_partition, message_offset, trace_id)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, :v, db_now(), 'stock_committed', 'system', 'confirmed', 'fulfil', 'committed', 'captured', gen_random_uuid(), 'inventory.events', 0, g, repeat('0', 32) FROM generate_series(1, :n) g;
INSERT INTO outbox (topic, key, payload) SELECT 'orders.events', :base + g, repeat('x', 520)::bytea FROM generate_series(1, :n) g;
COMMIT;
DELETE FROM outbox USING (SELECT set_config('synchronous_commit', 'off', true)) AS as_relays_do WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :n);
