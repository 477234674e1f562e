-- The inventory's rows for :n two-line orders. The lines of a batch are of different SKUs, of 1,000 in turn.
\set i :i + 1
\set base (:client_id * 1000000000 + :i * 1000)
BEGIN;
INSERT INTO inbox (message_id) SELECT gen_random_uuid() FROM generate_series(1, :n) ON CONFLICT DO NOTHING RETURNING message_id;
SELECT * FROM stock_levels WHERE sku = ANY (ARRAY(SELECT 'SKU-' || (:i * 2 * :n + s) % 1000 FROM generate_series(1, 2 * :n) s)) ORDER BY sku FOR NO KEY UPDATE;
INSERT INTO reservations (order_id, state, version, expires_at)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, 'held', 1, db_now() + '20 min' FROM generate_series(1, :n) g;
INSERT INTO reservation_lines (order_id, sku, quantity)
    SELECT lpad((:base + g)::text, 32, '0')::uuid, 'SKU-' || (:i * 2 * :n + 2 * g - p) % 1000, 2 FROM generate_series(1, :n) g, generate_series(0, 1) p;
UPDATE stock_levels SET reserved = reserved + 2, version = version + 1 WHERE sku = ANY (ARRAY(SELECT 'SKU-' || (:i * 2 * :n + s) % 1000 FROM generate_series(1, 2 * :n) s));
INSERT INTO outbox (topic, key, payload) SELECT 'inventory.events', :base + g, repeat('x', 560)::bytea FROM generate_series(1, :n) g;
COMMIT;
DELETE FROM outbox USING (SELECT set_config('synchronous_commit', 'off', true)) AS as_relays_do WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :n);
BEGIN;
INSERT INTO inbox (message_id) SELECT gen_random_uuid() FROM generate_series(1, :n) ON CONFLICT DO NOTHING RETURNING message_id;
SELECT * FROM reservations JOIN reservation_lines USING (order_id)
    WHERE order_id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g)) ORDER BY order_id FOR NO KEY UPDATE OF reservations;
SELECT * FROM stock_levels WHERE sku = ANY (ARRAY(SELECT 'SKU-' || (:i * 2 * :n + s) % 1000 FROM generate_series(1, 2 * :n) s)) ORDER BY sku FOR NO KEY UPDATE;
UPDATE reservations SET state = 'committed', version = 2, expires_at = NULL, updated_at = db_now()
    WHERE order_id = ANY (ARRAY(SELECT lpad((:base + g)::text, 32, '0')::uuid FROM generate_series(1, :n) g));
UPDATE stock_levels SET reserved = reserved - 2, version = version + 1 WHERE sku = ANY (ARRAY(SELECT 'SKU-' || (:i * 2 * :n + s) % 1000 FROM generate_series(1, 2 * :n) s));
INSERT INTO movements (sku, sequence, id, kind, quantity, on_hand_after, cause, actor)
    SELECT sku, version, gen_random_uuid(), 'committed', -2, on_hand - 2, 'order:' || gen_random_uuid(), 'system' FROM stock_levels
    WHERE sku = ANY (ARRAY(SELECT 'SKU-' || (:i * 2 * :n + s) % 1000 FROM generate_series(1, 2 * :n) s));
INSERT INTO outbox (topic, key, payload) SELECT 'inventory.events', :base + g, repeat('x', 560)::bytea FROM generate_series(1, :n) g;
COMMIT;
DELETE FROM outbox USING (SELECT set_config('synchronous_commit', 'off', true)) AS as_relays_do WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT :n);
