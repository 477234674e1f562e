-- The provider's book: each charge by itself, in two statements that commit.
\set i :i + 1
\set base (:client_id * 1000000000 + :i)
INSERT INTO charges (reference, key, amount, currency, method) VALUES ('sim_' || :base, 'charge:' || :base, 2000, 'EUR', 'pm_card_visa')
    ON CONFLICT (key) DO UPDATE SET key = excluded.key RETURNING reference;
UPDATE charges SET state = 'captured', captured = amount, confirms = 1 WHERE reference = 'sim_' || :base AND state = 'open' AND confirms = 0 RETURNING reference;
