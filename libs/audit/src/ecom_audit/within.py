"""The invariants that one database can show by itself.

Each is a query for its violations: what it is about, and the two sides. A snapshot is consistent, so what is
found here is true whatever goes on meanwhile, and nothing has to be looked at again.

`:grace` is the time in seconds that something late is given. A colon before a word would be a parameter.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from ecom_audit.databases import Snapshots
from ecom_audit.invariants import Attention, Violation


class Check(NamedTuple):
    invariant: str
    database: str
    violations: str
    """SELECT subject, left side, right side."""


_GRACE: Final = "make_interval(secs => :grace)"
_IS_OPEN: Final = "status IN ('pending', 'cancelling')"

_KEYS_TWICE: Final = """
    SELECT format('key %s of %s', key, subject), count(*) || ' times', 'one key'
    FROM idempotency_keys GROUP BY subject, operation, key HAVING count(*) > 1"""

# Grouped: one line for each order, however many messages of it wait.
_UNSENT: Final = f"""
    SELECT key, format('%s unsent for %s, the first since %s', count(*), string_agg(DISTINCT topic, ', '), min(created_at)),
           'sent within ' || {_GRACE}
    FROM outbox WHERE created_at < db_now() - {_GRACE} GROUP BY key"""

CHECKS: Final = (
    # ---- acknowledged is durable
    Check("keys", "order", _KEYS_TWICE),
    Check("keys", "inventory", _KEYS_TWICE),
    Check("keys", "order", """
        SELECT format('key %s of %s', k.key, k.subject), 'stands for order ' || k.resource_id,
               coalesce('an order of ' || o.customer_id, 'no such order')
        FROM idempotency_keys k LEFT JOIN orders o ON o.id::text = k.resource_id
        WHERE o.customer_id IS DISTINCT FROM k.subject"""),
    Check("keys", "inventory", """
        SELECT format('key %s of %s', k.key, k.subject), 'stands for movement ' || k.resource_id,
               'no such movement'
        FROM idempotency_keys k LEFT JOIN movements m ON m.id::text = k.resource_id
        WHERE m.id IS NULL"""),
    Check("checkouts", "order", """
        SELECT min(id::text), 'orders ' || string_agg(id::text, ', ' ORDER BY id),
               format('one order for checkout %s of %s', checkout_id, customer_id)
        FROM orders WHERE checkout_id IS NOT NULL
        GROUP BY customer_id, checkout_id HAVING count(*) > 1"""),
    Check("totals", "order", """
        SELECT id::text, coalesce('total ' || o.total, 'no order'), coalesce('lines of ' || lines.total, 'no lines')
        FROM orders o FULL JOIN (SELECT order_id AS id, sum(total) AS total,
                                        sum(unit_price * quantity) AS price
                                 FROM order_lines GROUP BY order_id) lines USING (id)
        WHERE o.total IS DISTINCT FROM lines.total OR lines.total <> lines.price"""),
    # ---- money
    Check("one-charge", "payment", """
        SELECT order_id::text, format('%s payments, %s charges', count(DISTINCT p.id), count(o.id)), 'one of each'
        FROM payments p LEFT JOIN operations o ON o.payment_id = p.id AND o.kind = 'charge'
        GROUP BY order_id HAVING count(DISTINCT p.id) > 1 OR count(o.id) > 1"""),
    Check("one-charge", "provider", """
        SELECT split_part(key, ':', 1), 'captured ' || string_agg(key, ', ' ORDER BY key), 'one charge'
        FROM book WHERE captured > 0 GROUP BY 1 HAVING count(*) > 1"""),
    Check("ledger", "payment", """
        SELECT operation_id::text, coalesce(entries.what, 'no entries'),
               CASE WHEN j.kind IS NULL THEN 'no journal' ELSE 'a debit and a credit that sum to 0' END
        FROM ledger_journals j
        FULL JOIN (SELECT operation_id, count(*) AS sides, sum(amount) AS total,
                          string_agg(account || ' ' || amount, ', ') AS what
                   FROM ledger_entries GROUP BY operation_id) entries USING (operation_id)
        WHERE j.kind IS NULL OR entries.sides IS DISTINCT FROM 2 OR entries.total <> 0"""),
    Check("booked", "payment", """
        WITH booked AS (
            SELECT j.operation_id AS id, o.key, e.amount, j.currency, j.payment_id
            FROM ledger_journals j LEFT JOIN operations o ON o.id = j.operation_id
            LEFT JOIN ledger_entries e ON e.operation_id = j.operation_id AND account = 'provider_clearing'
        ), done AS (
            SELECT o.id, o.key, CASE kind WHEN 'charge' THEN o.amount ELSE -o.amount END AS amount,
                   p.currency, o.payment_id
            FROM operations o JOIN payments p ON p.id = o.payment_id
            WHERE o.state = 'succeeded' AND kind <> 'void'
        )
        SELECT coalesce(done.key, booked.key, id::text),
               coalesce('booked ' || booked.amount || ' ' || booked.currency, 'not booked'),
               coalesce('succeeded with ' || done.amount || ' ' || done.currency, 'did not succeed')
        FROM booked FULL JOIN done USING (id)
        WHERE (booked.amount, booked.currency, booked.payment_id)
              IS DISTINCT FROM (done.amount, done.currency, done.payment_id)"""),
    Check("booked", "payment", """
        SELECT p.order_id::text, format('captured %s, refunded %s', captured, refunded),
               format('booked %s, and %s back', coalesce(taken, 0), coalesce(given, 0))
        FROM payments p
        LEFT JOIN (SELECT payment_id, sum(e.amount) FILTER (WHERE kind = 'capture') AS taken,
                          -sum(e.amount) FILTER (WHERE kind = 'refund') AS given
                   FROM ledger_journals JOIN ledger_entries e USING (operation_id)
                   WHERE account = 'provider_clearing' GROUP BY payment_id) booked ON payment_id = p.id
        WHERE (captured, refunded) <> (coalesce(taken, 0), coalesce(given, 0))"""),
    Check("provider", "provider", """
        SELECT key, 'refunded ' || refunded, 'refunds of ' || coalesce(total, 0)
        FROM book LEFT JOIN (SELECT reference, sum(amount) AS total FROM refunds
                             WHERE state = 'refunded' GROUP BY reference) r USING (reference)
        WHERE refunded <> coalesce(total, 0)"""),
    # ---- stock
    Check("on-hand", "inventory", """
        SELECT sku, 'on_hand ' || coalesce(on_hand, 0), 'movements of ' || coalesce(total, 0)
        FROM stock_levels
        FULL JOIN (SELECT sku, sum(quantity) AS total FROM movements GROUP BY sku) m USING (sku)
        WHERE coalesce(on_hand, 0) <> coalesce(total, 0)"""),
    Check("reserved", "inventory", """
        SELECT sku, 'reserved ' || coalesce(reserved, 0), 'held lines of ' || coalesce(total, 0)
        FROM stock_levels
        FULL JOIN (SELECT sku, sum(quantity) AS total
                   FROM reservations JOIN reservation_lines USING (order_id)
                   WHERE state = 'held' GROUP BY sku) held USING (sku)
        WHERE coalesce(reserved, 0) <> coalesce(total, 0)"""),
    Check("oversold", "inventory", """
        SELECT sku, 'reserved ' || reserved, 'on_hand ' || on_hand
        FROM stock_levels WHERE NOT (0 <= reserved AND reserved <= on_hand)"""),
    Check("movements", "inventory", """
        SELECT sku, format('%s movements by %s', count(*), cause), 'one'
        FROM movements GROUP BY sku, cause HAVING count(*) > 1"""),
    Check("movements", "inventory", """
        SELECT format('%s #%s', sku, sequence), format('%s after a movement of %s', on_hand_after, quantity),
               format('%s before it', before)
        FROM (SELECT *, coalesce(lag(on_hand_after) OVER (PARTITION BY sku ORDER BY sequence), 0) AS before
              FROM movements) counted
        WHERE before + quantity <> on_hand_after"""),
    Check("committed", "inventory", """
        WITH due AS (
            SELECT order_id, sku, format('order:%s:%s', order_id, kind) AS cause, sign * quantity AS quantity
            FROM reservations JOIN reservation_lines USING (order_id)
            JOIN (VALUES ('committed', 'committed', -1), ('restocked', 'committed', -1),
                         ('restocked', 'restocked', 1)) AS effects (state, kind, sign) USING (state)
        ), moved AS (
            SELECT sku, cause, quantity, kind FROM movements WHERE kind IN ('committed', 'restocked')
        )
        SELECT coalesce(order_id::text, split_part(cause, ':', 2)),
               coalesce(sku || ' moved by ' || moved.quantity, sku || ' not moved'),
               coalesce('reserved and to be moved by ' || due.quantity, 'nothing to be ' || kind)
        FROM due FULL JOIN moved USING (sku, cause)
        WHERE due.quantity IS DISTINCT FROM moved.quantity"""),
    # ---- nothing is forgotten
    Check("stuck", "order", f"""
        SELECT id::text, format('%s (stock %s, payment %s) since %s', status, stock, payment, updated_at),
               CASE WHEN due_at IS NULL THEN 'to be looked at again: never'
                    WHEN greatest(deadline_at, updated_at) >= db_now() - {_GRACE} THEN 'to be looked at again at ' || due_at
                    ELSE 'to be final by ' || deadline_at END
        FROM orders
        -- A cancellation may come long after the deadline: it has its own time.
        WHERE {_IS_OPEN} AND flagged_at IS NULL AND resolved_at IS NULL
          AND (greatest(deadline_at, updated_at) < db_now() - {_GRACE} OR due_at IS NULL
               OR (due_at < db_now() - {_GRACE}
                   AND NOT EXISTS (SELECT FROM outbox WHERE outbox.key = orders.id::text)))"""),
    Check("stuck", "inventory", f"""
        SELECT order_id::text, 'held', 'to be released at ' || expires_at
        FROM reservations WHERE state = 'held' AND expires_at < db_now() - {_GRACE}"""),
    Check("stuck", "payment", f"""
        SELECT p.order_id::text, format('%s of %s is %s', o.kind, o.amount, o.state),
               coalesce('to be asked for at ' || o.next_attempt_at, 'nobody asks for it')
        FROM operations o JOIN payments p ON p.id = o.payment_id
        WHERE o.state IN ('pending', 'unknown')
          AND CASE WHEN o.next_attempt_at IS NULL
              -- A charge is not asked for while a void asks about both.
              THEN NOT EXISTS (SELECT FROM operations other WHERE other.payment_id = o.payment_id
                               AND other.next_attempt_at IS NOT NULL)
              ELSE greatest(o.next_attempt_at, o.leased_until) < db_now() - {_GRACE} END"""),
    Check("outboxes", "order", _UNSENT),
    Check("outboxes", "inventory", _UNSENT),
    Check("outboxes", "payment", _UNSENT),
    # ---- histories
    Check("versions", "order", """
        SELECT id::text, 'version ' || coalesce(o.version, 0),
               format('%s entries, %s to %s', coalesce(entries, 0), first, last)
        FROM orders o
        FULL JOIN (SELECT order_id AS id, count(*) AS entries, min(version) AS first, max(version) AS last
                   FROM order_history GROUP BY order_id) history USING (id)
        WHERE (first, last, entries) IS DISTINCT FROM (1, o.version, o.version::bigint)"""),
    Check("present", "order", """
        SELECT o.id::text,
               concat_ws(' ', 'order:', o.status, o.goal, o.reason, o.stock, o.payment),
               concat_ws(' ', 'history:', h.status, h.goal, h.reason, h.stock, h.payment)
        FROM orders o JOIN order_history h ON h.order_id = o.id AND h.version = o.version
        WHERE (o.status, o.goal, o.reason, o.stock, o.payment)
              IS DISTINCT FROM (h.status, h.goal, h.reason, h.stock, h.payment)"""),
    Check("present", "order", """
        SELECT id::text, 'resolved at ' || resolved_at, 'no entry that says by whom'
        FROM orders o WHERE resolved_at IS NOT NULL AND NOT EXISTS (
            SELECT FROM order_history h WHERE h.order_id = o.id AND h.kind = 'resolved' AND h.at = o.resolved_at)"""),
    Check("messages", "order", """
        SELECT order_id::text, 'message ' || message_id, 'versions ' || string_agg(version::text, ', ')
        FROM order_history WHERE message_id IS NOT NULL
        GROUP BY order_id, message_id HAVING count(*) > 1"""),
)  # fmt: skip

_DEAD_LETTERS: Final = """
    SELECT coalesce(encode(key, 'escape'), '-'),
           format('%s at %s/%s #%s: %s', failed_at, source_topic, source_partition, source_offset, left(error, 200))
    FROM dead_letters WHERE state = 'open' ORDER BY id"""
_ATTENTION: Final = (
    ("dead letter", "order", _DEAD_LETTERS),
    ("dead letter", "inventory", _DEAD_LETTERS),
    ("dead letter", "payment", _DEAD_LETTERS),
    ("flagged", "order", f"""
        SELECT id::text, format('%s (stock %s, payment %s), flagged at %s', status, stock, payment, flagged_at)
        FROM orders WHERE {_IS_OPEN} AND flagged_at IS NOT NULL ORDER BY id"""),
    # Their money was given back by means that nobody here can check.
    ("resolved", "order", """
        SELECT id::text, format('%s (stock %s, payment %s), settled elsewhere at %s by %s: %s', o.status, o.stock,
                                o.payment, resolved_at, actor, note)
        FROM orders o LEFT JOIN order_history h ON h.order_id = id AND h.kind = 'resolved' AND h.at = resolved_at
        WHERE resolved_at IS NOT NULL ORDER BY id"""),
)  # fmt: skip

_NUMBERS: Final = f"""
    SELECT count(*), count(*) FILTER (WHERE {_IS_OPEN} AND flagged_at IS NULL AND resolved_at IS NULL
        AND greatest(deadline_at, updated_at) >= db_now() - {_GRACE})
    FROM orders"""


def violations(now: Snapshots, *, grace_s: float) -> Iterator[Violation]:
    for check in CHECKS:
        for subject, left, right in now[check.database].rows(check.violations, grace=grace_s):
            yield Violation(check.invariant, subject, left, right)


def attention(now: Snapshots) -> Iterator[Attention]:
    for kind, database, sql in _ATTENTION:
        for subject, note in now[database].rows(sql):
            yield Attention(kind, subject, f"{database}: {note}")


def count_orders(now: Snapshots, *, grace_s: float) -> tuple[int, int]:
    """How many orders there are, and how many of them are in flight."""
    ((orders, in_flight),) = now["order"].rows(_NUMBERS, grace=grace_s)
    return orders, in_flight
