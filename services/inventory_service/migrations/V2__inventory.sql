-- Items, stock levels, reservations and the ledger of movements; inventory_service/models.py maps them.
SET lock_timeout = '2s';

-- SKUs compare by code point, as they do in Python: both sort by them when they lock.
CREATE TABLE items (
    sku         text COLLATE "C" CONSTRAINT pk_items PRIMARY KEY,
    name        text NOT NULL,
    description text,
    unit_price  bigint NOT NULL,
    currency    text NOT NULL,
    active      boolean NOT NULL,
    version     integer NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT db_now(),
    updated_at  timestamptz NOT NULL DEFAULT db_now(),
    CONSTRAINT ck_items_sku CHECK (length(sku) BETWEEN 1 AND 64),
    CONSTRAINT ck_items_name CHECK (length(name) BETWEEN 1 AND 255),
    CONSTRAINT ck_items_description CHECK (length(description) <= 10000),
    CONSTRAINT ck_items_unit_price CHECK (unit_price BETWEEN 1 AND 1000000000000000),
    CONSTRAINT ck_items_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_items_version CHECK (version >= 1)
);

-- The CHECK on `reserved` is what makes overselling impossible, whatever the code does.
-- Half a page stays free, so that the counters are updated without touching the index.
CREATE TABLE stock_levels (
    sku      text COLLATE "C" CONSTRAINT pk_stock_levels PRIMARY KEY
             CONSTRAINT fk_stock_levels_sku REFERENCES items (sku),
    on_hand  bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0,
    version  bigint NOT NULL DEFAULT 1,
    CONSTRAINT ck_stock_levels_reserved CHECK (0 <= reserved AND reserved <= on_hand),
    -- Far above what the API accepts, because a restock must always find room.
    CONSTRAINT ck_stock_levels_on_hand CHECK (on_hand <= 9007199254740991),
    CONSTRAINT ck_stock_levels_version CHECK (version >= 1)
) WITH (fillfactor = 50);

CREATE TABLE reservations (
    order_id   uuid CONSTRAINT pk_reservations PRIMARY KEY,
    state      text NOT NULL,
    version    integer NOT NULL,
    shortages  jsonb NOT NULL DEFAULT '[]',
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT db_now(),
    updated_at timestamptz NOT NULL DEFAULT db_now(),
    CONSTRAINT ck_reservations_state
        CHECK (state IN ('held', 'refused', 'committed', 'released', 'restocked')),
    CONSTRAINT ck_reservations_version CHECK (version >= 1),
    CONSTRAINT ck_reservations_shortages CHECK ((state = 'refused') = (shortages <> '[]')),
    CONSTRAINT ck_reservations_expires_at CHECK ((state = 'held') = (expires_at IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX ix_reservations_expires_at ON reservations (expires_at) WHERE state = 'held';

-- No reference to items: a refused reservation may name what we never sold.
CREATE TABLE reservation_lines (
    order_id uuid NOT NULL
             CONSTRAINT fk_reservation_lines_order_id REFERENCES reservations (order_id),
    sku      text COLLATE "C" NOT NULL,
    quantity bigint NOT NULL,
    CONSTRAINT pk_reservation_lines PRIMARY KEY (order_id, sku),
    CONSTRAINT ck_reservation_lines_sku CHECK (length(sku) BETWEEN 1 AND 64),
    CONSTRAINT ck_reservation_lines_quantity CHECK (quantity >= 1)
);

CREATE TABLE movements (
    sku           text COLLATE "C" NOT NULL
                  CONSTRAINT fk_movements_sku REFERENCES stock_levels (sku),
    sequence      bigint NOT NULL,  -- the version that the stock level took with it
    id            uuid NOT NULL,
    kind          text NOT NULL,
    quantity      bigint NOT NULL,
    on_hand_after bigint NOT NULL,
    cause         text NOT NULL,
    actor         text NOT NULL,
    reason        text,
    created_at    timestamptz NOT NULL DEFAULT db_now(),
    CONSTRAINT pk_movements PRIMARY KEY (sku, sequence),
    CONSTRAINT uq_movements_sku_cause UNIQUE (sku, cause),
    CONSTRAINT ck_movements_kind
        CHECK (kind IN ('received', 'adjusted', 'counted', 'committed', 'restocked')),
    CONSTRAINT ck_movements_quantity CHECK (CASE kind
        WHEN 'adjusted' THEN quantity <> 0
        WHEN 'counted' THEN true
        WHEN 'committed' THEN quantity < 0
        ELSE quantity > 0 END),
    CONSTRAINT ck_movements_sequence CHECK (sequence >= 1),
    CONSTRAINT ck_movements_on_hand_after CHECK (on_hand_after >= 0),
    CONSTRAINT ck_movements_cause CHECK (length(cause) BETWEEN 1 AND 600),
    CONSTRAINT ck_movements_actor CHECK (length(actor) BETWEEN 1 AND 512),
    CONSTRAINT ck_movements_reason
        CHECK (length(reason) BETWEEN 1 AND 500 AND (kind <> 'adjusted' OR reason IS NOT NULL))
);

-- The only way for on_hand to change: the service's role may write movements, and not on_hand itself. So
-- the counter is the sum of its ledger by construction. A movement that does not continue the count that it
-- found is refused: whoever wrote it did not hold the lock.
CREATE FUNCTION apply_movements() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    continued boolean;
BEGIN
    WITH change AS (
        SELECT sku, sum(quantity) AS quantity,
               (array_agg(on_hand_after ORDER BY sequence DESC))[1] AS on_hand
        FROM new_movements GROUP BY sku
    ), changed AS (
        UPDATE stock_levels AS level SET on_hand = change.on_hand
        FROM change WHERE level.sku = change.sku AND level.on_hand + change.quantity = change.on_hand
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM changed) = (SELECT count(*) FROM change) INTO continued;
    IF NOT continued THEN
        RAISE check_violation USING MESSAGE = 'the movements do not continue the stock level';
    END IF;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION apply_movements() FROM PUBLIC;
CREATE TRIGGER apply_movements AFTER INSERT ON movements
    REFERENCING NEW TABLE AS new_movements FOR EACH STATEMENT EXECUTE FUNCTION apply_movements();

GRANT SELECT, INSERT, UPDATE ON items, reservations TO inventory_service;
GRANT SELECT, INSERT ON reservation_lines, movements TO inventory_service;
GRANT SELECT, INSERT (sku), UPDATE (reserved, version) ON stock_levels TO inventory_service;
