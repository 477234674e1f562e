-- The book of the simulated payment provider: what it did, whatever its callers came to know of it.
SET lock_timeout = '2s';

-- The provider's own clock. A session setting shifts it in simulations.
CREATE FUNCTION db_now() RETURNS timestamptz LANGUAGE sql STABLE AS
$$ SELECT statement_timestamp() + coalesce(nullif(current_setting('ecom.clock_offset', true), ''), '0')::interval $$;

CREATE TABLE charges (
    reference    text CONSTRAINT pk_charges PRIMARY KEY,
    key          text NOT NULL CONSTRAINT uq_charges_key UNIQUE,
    amount       bigint NOT NULL,
    currency     text NOT NULL,
    method       text NOT NULL,
    state        text NOT NULL DEFAULT 'open',
    decline_code text,
    captured     bigint NOT NULL DEFAULT 0,
    refunded     bigint NOT NULL DEFAULT 0,
    confirms     integer NOT NULL DEFAULT 0,      -- how often it was asked to confirm
    captures_at  timestamptz,                     -- when a late capture takes place
    opened_at    timestamptz NOT NULL DEFAULT db_now(),
    CONSTRAINT ck_charges_amount CHECK (amount > 0),
    CONSTRAINT ck_charges_state CHECK (state IN ('open', 'processing', 'captured', 'declined', 'cancelled')),
    CONSTRAINT ck_charges_money CHECK (0 <= refunded AND refunded <= captured AND captured <= amount),
    CONSTRAINT ck_charges_captured CHECK ((captured > 0) = (state = 'captured')),
    CONSTRAINT ck_charges_captures_at CHECK (state <> 'processing' OR captures_at IS NOT NULL)
);

CREATE TABLE refunds (
    key       text CONSTRAINT pk_refunds PRIMARY KEY,
    reference text NOT NULL CONSTRAINT fk_refunds_reference REFERENCES charges (reference),
    amount    bigint NOT NULL,
    state     text NOT NULL,
    code      text,                               -- why it failed
    asked_at  timestamptz NOT NULL DEFAULT db_now(),
    CONSTRAINT ck_refunds_amount CHECK (amount > 0),
    CONSTRAINT ck_refunds_state CHECK (state IN ('refunded', 'refund_failed'))
);
CREATE INDEX ix_refunds_reference ON refunds (reference);

-- Not part of the book: requests that were lost on their way, so that they are lost only once.
CREATE TABLE lost_requests (
    key     text CONSTRAINT pk_lost_requests PRIMARY KEY,
    lost_at timestamptz NOT NULL DEFAULT db_now()
);

-- For auditors: the book as of now, captures that are due by the clock included.
CREATE VIEW book AS
SELECT key, reference, currency, amount,
       CASE WHEN is_due THEN 'captured' ELSE state END AS state,
       CASE WHEN is_due THEN amount ELSE captured END AS captured,
       refunded
FROM charges, LATERAL (SELECT state = 'processing' AND captures_at <= db_now() AS is_due) AS late;

GRANT SELECT, INSERT, UPDATE ON charges TO provider_service;
GRANT SELECT, INSERT ON refunds, lost_requests TO provider_service;
GRANT SELECT ON book, flyway_schema_history TO provider_service;
