-- The tables of the chassis, the same in every service's database; ecom_common/tables.py describes them.
SET lock_timeout = '2s';

-- The one clock of the business. A session setting shifts it in simulations.
CREATE FUNCTION db_now() RETURNS timestamptz LANGUAGE sql STABLE AS
$$ SELECT statement_timestamp() + coalesce(nullif(current_setting('ecom.clock_offset', true), ''), '0')::interval $$;

CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_outbox PRIMARY KEY,
    topic      text NOT NULL,
    key        text NOT NULL,
    payload    bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT db_now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);  -- rows live for milliseconds
CREATE INDEX ix_outbox_key ON outbox (key);

CREATE TABLE inbox (
    message_id  uuid CONSTRAINT pk_inbox PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT db_now()
);
CREATE INDEX ix_inbox_received_at ON inbox (received_at);

CREATE TABLE idempotency_keys (
    subject     text NOT NULL,
    operation   text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    resource_id text NOT NULL,
    created     boolean NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT db_now(),
    CONSTRAINT pk_idempotency_keys PRIMARY KEY (subject, operation, key)
);
CREATE INDEX ix_idempotency_keys_created_at ON idempotency_keys (created_at);

CREATE TABLE dead_letters (
    id               bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_dead_letters PRIMARY KEY,
    source_topic     text NOT NULL,
    source_partition integer NOT NULL,
    source_offset    bigint NOT NULL,
    key              bytea,
    payload          bytea NOT NULL,
    digest           bytea NOT NULL,
    error            text NOT NULL,
    stack            text NOT NULL,
    state            text NOT NULL DEFAULT 'open',
    failed_at        timestamptz NOT NULL DEFAULT db_now(),
    settled_at       timestamptz,
    settled_by       text,
    settled_reason   text,
    CONSTRAINT uq_dead_letters_source_topic UNIQUE (source_topic, source_partition, source_offset, digest),
    CONSTRAINT ck_dead_letters_state CHECK (state IN ('open', 'redriven', 'discarded'))
);
CREATE INDEX ix_dead_letters_state ON dead_letters (state);

GRANT SELECT, INSERT, DELETE ON outbox, inbox, idempotency_keys TO order_service;
GRANT SELECT, INSERT, UPDATE ON dead_letters TO order_service;
GRANT SELECT ON flyway_schema_history TO order_service;
