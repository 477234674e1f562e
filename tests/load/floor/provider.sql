-- The provider's book: :n charges in two statements, each of which commits.
\set i :i + 1
\set base (:client_id * 1000000000 + :i * 1000)
INSERT INTO charges (reference, key, amount, currency, method)
    SELECT 'sim_' || :base + g, 'charge:' || :base + g, 2000, 'EUR', 'pm_card_visa' FROM generate_series(1, :n) g
    ON CONFLICT (key) DO NOTHING RETURNING key, reference;
UPDATE charges SET state = 'captured', captured = amount, confirms = 1
    WHERE reference IN (SELECT reference FROM charges WHERE reference = ANY (ARRAY(SELECT 'sim_' || :base + g FROM generate_series(1, :n) g))
        AND state = 'open' AND confirms = 0 FOR UPDATE SKIP LOCKED) RETURNING reference;
