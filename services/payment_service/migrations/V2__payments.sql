-- Payment intents, their operations at the provider, and the ledger. models.py describes them.
SET lock_timeout = '2s';

-- One intent per order: what is to be paid, and how far it has come.
CREATE TABLE payments (
    id                  uuid CONSTRAINT pk_payments PRIMARY KEY,
    order_id            uuid NOT NULL CONSTRAINT uq_payments_order_id UNIQUE,
    customer_id         text NOT NULL,
    currency            text NOT NULL,
    amount              bigint NOT NULL,
    method              text,                      -- the provider's token; none in a tombstone
    state               text NOT NULL,
    version             integer NOT NULL,
    captured            bigint NOT NULL,
    refunded            bigint NOT NULL,
    decline_code        text,
    provider_reference  text,
    cancel_requested_at timestamptz,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    CONSTRAINT ck_payments_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_payments_amount CHECK (amount BETWEEN 1 AND 1000000000000000),
    CONSTRAINT ck_payments_state CHECK (state IN ('processing', 'unknown', 'captured', 'declined',
        'cancelled', 'refunding', 'refunded', 'refund_failed')),
    CONSTRAINT ck_payments_version CHECK (version >= 1),
    CONSTRAINT ck_payments_money CHECK (0 <= refunded AND refunded <= captured AND captured <= amount),
    CONSTRAINT ck_payments_captured CHECK ((captured > 0)
        = (state IN ('captured', 'refunding', 'refunded', 'refund_failed'))),
    CONSTRAINT ck_payments_refunded CHECK ((refunded > 0 AND refunded = captured) = (state = 'refunded')),
    CONSTRAINT ck_payments_decline_code CHECK ((decline_code IS NOT NULL) = (state = 'declined'))
);
-- What is being watched: counted every few seconds, and never many.
CREATE INDEX ix_payments_state ON payments (state)
    WHERE state IN ('unknown', 'refunding', 'refund_failed');

-- What is asked of the provider. Key, kind and amount are fixed before the first call.
CREATE TABLE operations (
    id              uuid CONSTRAINT pk_operations PRIMARY KEY,
    payment_id      uuid NOT NULL CONSTRAINT fk_operations_payment_id REFERENCES payments (id),
    kind            text NOT NULL,
    number          integer NOT NULL,
    key             text NOT NULL CONSTRAINT uq_operations_key UNIQUE,
    amount          bigint NOT NULL,
    state           text NOT NULL,
    attempts        integer NOT NULL,
    next_attempt_at timestamptz,                   -- none: not to be asked (any more)
    leased_until    timestamptz,
    last_error      text,
    cause_id        uuid NOT NULL,                 -- the command that led to it
    correlation_id  text,
    traceparent     text,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    -- One charge and one void at most; a refund only follows one that has failed for good.
    CONSTRAINT uq_operations_payment_id_kind_number UNIQUE (payment_id, kind, number),
    CONSTRAINT ck_operations_kind CHECK (kind IN ('charge', 'void', 'refund')),
    CONSTRAINT ck_operations_number CHECK (number = 1 OR (number > 1 AND kind = 'refund')),
    CONSTRAINT ck_operations_amount CHECK (amount BETWEEN 1 AND 1000000000000000),
    CONSTRAINT ck_operations_state CHECK (state IN ('pending', 'succeeded', 'failed', 'unknown')),
    CONSTRAINT ck_operations_attempts CHECK (attempts >= 0),
    CONSTRAINT ck_operations_next_attempt_at
        CHECK (next_attempt_at IS NULL OR state IN ('pending', 'unknown'))
);
-- Never two refunds at once, and none after one that has succeeded.
CREATE UNIQUE INDEX ix_operations_payment_id ON operations (payment_id)
    WHERE kind = 'refund' AND state <> 'failed';
CREATE INDEX ix_operations_next_attempt_at ON operations (next_attempt_at)
    WHERE next_attempt_at IS NOT NULL;

-- The ledger: a journal for each operation that moved money, hence never two for one operation.
CREATE TABLE ledger_journals (
    operation_id uuid CONSTRAINT pk_ledger_journals PRIMARY KEY
        CONSTRAINT fk_ledger_journals_operation_id REFERENCES operations (id),
    payment_id   uuid NOT NULL CONSTRAINT fk_ledger_journals_payment_id REFERENCES payments (id),
    kind         text NOT NULL,
    currency     text NOT NULL,
    booked_at    timestamptz NOT NULL,
    CONSTRAINT ck_ledger_journals_kind CHECK (kind IN ('capture', 'refund')),
    CONSTRAINT ck_ledger_journals_currency CHECK (currency ~ '^[A-Z]{3}$')
);
CREATE INDEX ix_ledger_journals_payment_id ON ledger_journals (payment_id);

-- Positive amounts are debits, negative ones credits.
CREATE TABLE ledger_entries (
    operation_id uuid NOT NULL
        CONSTRAINT fk_ledger_entries_operation_id REFERENCES ledger_journals (operation_id),
    account      text NOT NULL,
    amount       bigint NOT NULL,
    CONSTRAINT pk_ledger_entries PRIMARY KEY (operation_id, account),
    CONSTRAINT ck_ledger_entries_account CHECK (account IN ('provider_clearing', 'customer_receipts')),
    CONSTRAINT ck_ledger_entries_amount
        CHECK (amount <> 0 AND amount BETWEEN -1000000000000000 AND 1000000000000000)
);

-- A journal is whole and sums to zero, whoever writes it. Deferred to the commit, because its entries
-- come after it; on both tables, so that neither an empty journal nor a late entry gets by.
CREATE FUNCTION check_journal_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    entries bigint;
    total   numeric;
BEGIN
    SELECT count(*), coalesce(sum(amount), 0) INTO entries, total
        FROM ledger_entries WHERE operation_id = NEW.operation_id;
    IF entries < 2 OR total <> 0 THEN
        RAISE EXCEPTION 'journal % does not balance: % entries, total %', NEW.operation_id, entries, total
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER ledger_journals_balance AFTER INSERT OR UPDATE ON ledger_journals
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_journal_balance();
CREATE CONSTRAINT TRIGGER ledger_entries_balance AFTER INSERT OR UPDATE ON ledger_entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_journal_balance();

-- What is fixed is not granted: whose payment it is and of how much, an operation's key, the whole ledger.
GRANT SELECT, INSERT ON payments, operations, ledger_journals, ledger_entries TO payment_service;
GRANT UPDATE (state, version, captured, refunded, decline_code, provider_reference, cancel_requested_at,
    updated_at) ON payments TO payment_service;
GRANT UPDATE (state, attempts, next_attempt_at, leased_until, last_error, updated_at)
    ON operations TO payment_service;
