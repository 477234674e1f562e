-- Orders, their lines and their history; the read model of the catalogue.
SET lock_timeout = '2s';

CREATE TABLE catalogue_items (
    sku        text CONSTRAINT pk_catalogue_items PRIMARY KEY,
    name       text NOT NULL,
    unit_price bigint NOT NULL,
    currency   text NOT NULL,
    active     boolean NOT NULL,
    version    integer NOT NULL,
    CONSTRAINT ck_catalogue_items_unit_price CHECK (unit_price >= 1),
    CONSTRAINT ck_catalogue_items_version CHECK (version >= 1)
);

CREATE TABLE orders (
    id              uuid CONSTRAINT pk_orders PRIMARY KEY,
    customer_id     text NOT NULL,
    checkout_id     text,
    currency        text NOT NULL,
    total           bigint NOT NULL,
    payment_method  text NOT NULL,
    status          text NOT NULL,
    goal            text NOT NULL,
    reason          text,
    stock           text NOT NULL,
    stock_version   integer NOT NULL,
    payment         text NOT NULL,
    payment_version integer NOT NULL,
    version         integer NOT NULL,
    deadline_at     timestamptz NOT NULL,
    due_at          timestamptz,
    asks            integer NOT NULL,
    flagged_at      timestamptz,
    traceparent     text,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    CONSTRAINT uq_orders_customer_id UNIQUE (customer_id, checkout_id),  -- a double click is one order
    CONSTRAINT ck_orders_total CHECK (total BETWEEN 1 AND 1000000000000000),
    CONSTRAINT ck_orders_version CHECK (version >= 1),
    CONSTRAINT ck_orders_asks CHECK (asks >= 0),
    CONSTRAINT ck_orders_status CHECK (status IN ('pending', 'confirmed', 'cancelling', 'cancelled', 'rejected')),
    CONSTRAINT ck_orders_goal CHECK (goal IN ('fulfil', 'abort')),
    CONSTRAINT ck_orders_reason CHECK ((goal = 'fulfil') = (reason IS NULL)),
    CONSTRAINT ck_orders_stock CHECK (stock IN ('none', 'held', 'refused', 'committed', 'released', 'restocked')),
    CONSTRAINT ck_orders_payment CHECK (payment IN ('none', 'requested', 'processing', 'unknown', 'captured',
        'declined', 'cancelled', 'refunding', 'refunded', 'refund_failed')),
    -- Confirmed means paid and delivered from stock; closed means that nothing is held and nothing stays charged.
    CONSTRAINT ck_orders_confirmed CHECK (status <> 'confirmed'
        OR (goal = 'fulfil' AND stock = 'committed' AND payment = 'captured')),
    CONSTRAINT ck_orders_closed CHECK (status NOT IN ('cancelled', 'rejected')
        OR (goal = 'abort' AND stock IN ('refused', 'released', 'restocked')
            AND payment IN ('none', 'declined', 'cancelled', 'refunded'))),
    CONSTRAINT ck_orders_due_at CHECK (due_at IS NULL OR status IN ('pending', 'cancelling'))
) WITH (fillfactor = 70);  -- every order is updated a few times in its first second
CREATE INDEX ix_orders_customer_id ON orders (customer_id, id);
CREATE INDEX ix_orders_status ON orders (status, id);
CREATE INDEX ix_orders_due_at ON orders (due_at) WHERE status IN ('pending', 'cancelling');

CREATE TABLE order_lines (
    order_id   uuid NOT NULL CONSTRAINT fk_order_lines_order_id REFERENCES orders,
    position   integer NOT NULL,
    sku        text NOT NULL,
    name       text NOT NULL,
    quantity   integer NOT NULL,
    unit_price bigint NOT NULL,
    total      bigint NOT NULL,
    CONSTRAINT pk_order_lines PRIMARY KEY (order_id, position),
    CONSTRAINT ck_order_lines_quantity CHECK (quantity BETWEEN 1 AND 1000000),
    CONSTRAINT ck_order_lines_unit_price CHECK (unit_price >= 1),
    CONSTRAINT ck_order_lines_total CHECK (total = unit_price * quantity)
);

CREATE TABLE order_history (
    order_id          uuid NOT NULL CONSTRAINT fk_order_history_order_id REFERENCES orders,
    version           integer NOT NULL,
    at                timestamptz NOT NULL,
    kind              text NOT NULL,
    actor             text NOT NULL,
    note              text,
    status            text NOT NULL,
    goal              text NOT NULL,
    reason            text,
    stock             text NOT NULL,
    payment           text NOT NULL,
    message_id        uuid,
    message_topic     text,
    message_partition integer,
    message_offset    bigint,
    trace_id          text,
    CONSTRAINT pk_order_history PRIMARY KEY (order_id, version),
    CONSTRAINT ck_order_history_version CHECK (version >= 1),
    CONSTRAINT ck_order_history_cause CHECK ((message_id IS NULL) = (message_topic IS NULL))
);
-- A message changes an order at most once, even if the inbox has forgotten it.
CREATE UNIQUE INDEX uq_order_history_message_id ON order_history (order_id, message_id) WHERE message_id IS NOT NULL;

GRANT SELECT, INSERT, UPDATE ON catalogue_items, orders TO order_service;
-- What was ordered and what happened is never rewritten.
GRANT SELECT, INSERT ON order_lines, order_history TO order_service;
