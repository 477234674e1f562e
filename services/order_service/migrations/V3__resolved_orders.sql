-- Orders that an operator has settled outside of the system, as a refund by bank transfer: Order.resolve().
SET lock_timeout = '2s';

ALTER TABLE orders
    ADD COLUMN resolved_at timestamptz,
    -- Only what nobody here can bring to an end: nothing is held, and the provider will not give the money back.
    -- Such an order is not called refunded or cancelled; it goes no further, and nobody is asked for anything.
    -- NOT VALID spares a scan under the lock: in every row that there is, the column is new and empty.
    ADD CONSTRAINT ck_orders_resolved CHECK (resolved_at IS NULL
        OR (status IN ('pending', 'cancelling') AND goal = 'abort' AND stock IN ('refused', 'released', 'restocked')
            AND payment = 'refund_failed' AND flagged_at IS NULL AND due_at IS NULL)) NOT VALID;
