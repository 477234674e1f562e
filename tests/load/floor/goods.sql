-- The goods of inventory.sql, SKU-0 to SKU-999: the platform's own have other names.
INSERT INTO items (sku, name, unit_price, currency, active, version)
    SELECT 'SKU-' || g, 'Item', 500, 'EUR', true, 1 FROM generate_series(0, 999) g ON CONFLICT DO NOTHING;
INSERT INTO stock_levels (sku) SELECT 'SKU-' || g FROM generate_series(0, 999) g ON CONFLICT DO NOTHING;
INSERT INTO movements (sku, sequence, id, kind, quantity, on_hand_after, cause, actor)
    SELECT sku, 1, gen_random_uuid(), 'received', 1000000000, 1000000000, 'floor', 'floor'
    FROM generate_series(0, 999) g JOIN stock_levels ON sku = 'SKU-' || g ON CONFLICT DO NOTHING;
