"""Consistent orders, written straight into the four databases: what an auditor has to find nothing in.

python -m tests.support.audited 100000      how long the auditor takes over so many
"""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import UUID

import psycopg2
from ecom_audit.databases import engines
from ecom_audit.invariants import Report
from ecom_audit.look import Patience, look
from ecom_audit.show import as_text
from ecom_local.instance import Instance
from ecom_local.ports import Ports

from tests.support.databases import OWNERS, Databases

IMPATIENT: Final = Patience(grace_s=60, settle_s=0.2, pause_s=0.1)
NAMES: Final = {name.removesuffix("db"): name for name in OWNERS}

# What becomes of order n, by n % 10: a row for each entry of its history.
_BOUGHT: Final = (
    ("placed", "pending fulfil - none none"),
    ("stock_held", "pending fulfil - held requested"),
    ("payment_processing", "pending fulfil - held processing"),
    ("payment_captured", "pending fulfil - held captured"),
    ("stock_committed", "confirmed fulfil - committed captured"),
)
_STORIES: Final = {
    **dict.fromkeys(range(5), _BOUGHT),
    5: (_BOUGHT[0], ("stock_refused", "rejected abort out_of_stock refused none")),
    6: (
        *_BOUGHT[:3],
        ("payment_declined", "pending abort payment_declined held declined"),
        ("stock_released", "rejected abort payment_declined released declined"),
    ),
    7: (
        *_BOUGHT,
        ("cancel_requested", "cancelling abort cancelled_by_customer committed captured"),
        ("stock_restocked", "cancelling abort cancelled_by_customer restocked captured"),
        ("payment_refunding", "cancelling abort cancelled_by_customer restocked refunding"),
        ("payment_refunded", "cancelled abort cancelled_by_customer restocked refunded"),
    ),
    8: (
        _BOUGHT[0],
        ("cancel_requested", "cancelling abort cancelled_by_customer none none"),
        ("stock_released", "cancelled abort cancelled_by_customer released none"),
    ),
    9: _BOUGHT[:3],
}
_VERSIONS: Final = {"none": 0, "held": 1, "refused": 1, "committed": 2, "restocked": 3}
_PAYMENT_VERSIONS: Final = {"none": 0, "processing": 1, "captured": 2, "declined": 2, "refunded": 4}


def _history() -> str:
    rows = []
    for number, story in _STORIES.items():
        for version, (kind, facts) in enumerate(story, start=1):
            status, goal, reason, stock, payment = facts.split()
            known = {9: 1, 6: 2, 8: 1}.get(number, _VERSIONS.get(stock, 0))
            words = (number, version, len(story), kind, status, goal, reason, stock, payment, known,
                     _PAYMENT_VERSIONS.get(payment, 0))  # fmt: skip
            rows.append(f"({', '.join(repr(word) for word in words)})")
    return (
        f"(VALUES {', '.join(rows)}) AS story (number, version, last, kind, status, goal, reason, stock, "
        "payment, stock_version, payment_version)"
    )


_AT: Final = "now() - interval '100 seconds'"
_ORDER: Final = "md5('order' || n)::uuid"
_N: Final = "(SELECT n FROM generate_series(0, {count} - 1) AS n WHERE {which}) AS numbers"
_LINES: Final = """
    CREATE TEMP TABLE lines AS SELECT n, n % 10 AS number, md5('order' || n)::uuid AS order_id,
        position, 'SKU-' || (n * 2 + position) % {skus} AS sku, position AS quantity
    FROM (SELECT n FROM generate_series(0, {count} - 1) AS n WHERE {which}) AS numbers,
        generate_series(1, 2) AS position;"""
# 2 lines, of 1 and 2 units at 500.
_TOTAL: Final = 1500

_SQL: Final = {
    "order": f"""
        {_LINES}
        INSERT INTO orders SELECT {_ORDER}, 'customer-' || n % 100, CASE n % 2 WHEN 0 THEN 'checkout-' || n END,
            'EUR', {_TOTAL}, 'pm_card_visa', status, goal, nullif(reason, '-'), stock, stock_version, payment,
            payment_version, version, now() + interval '15 minutes',
            CASE number WHEN 9 THEN now() + interval '1 hour' END, 0, NULL, NULL, {_AT}, {_AT}
            FROM {_N} JOIN {_history()} ON number = n % 10 AND version = last;
        INSERT INTO order_lines SELECT order_id, position, sku, 'Item', quantity, 500, 500 * quantity FROM lines;
        INSERT INTO order_history (order_id, version, at, kind, actor, status, goal, reason, stock, payment,
            message_id, message_topic) SELECT {_ORDER}, version, {_AT}, kind, 'system', status, goal,
            nullif(reason, '-'), stock, payment,
            CASE WHEN kind LIKE '%\\_%' AND kind <> 'cancel_requested' THEN gen_random_uuid() END,
            CASE WHEN kind LIKE '%\\_%' AND kind <> 'cancel_requested' THEN 'events' END
            FROM {_N} JOIN {_history()} ON number = n % 10;
        INSERT INTO idempotency_keys (subject, operation, key, fingerprint, resource_id, created)
            SELECT 'customer-' || n % 100, 'orders.place', 'key-' || n, '', ({_ORDER})::text, true FROM {_N};""",
    "inventory": f"""
        {_LINES}
        INSERT INTO items SELECT 'SKU-' || n, 'Item', NULL, 500, 'EUR', true, 1
            FROM generate_series(0, {{skus}} - 1) AS n;
        INSERT INTO stock_levels (sku) SELECT sku FROM items;
        INSERT INTO movements SELECT sku, 1, gen_random_uuid(), 'received', 1000000, 1000000,
            'key:staff:' || sku, 'staff' FROM items;
        INSERT INTO idempotency_keys (subject, operation, key, fingerprint, resource_id, created)
            SELECT 'staff', 'inventory.record_movement', sku, '', id, true FROM movements;
        INSERT INTO reservations SELECT {_ORDER}, stock, version, CASE stock WHEN 'refused' THEN '[1]' ELSE '[]' END::jsonb,
            CASE stock WHEN 'held' THEN now() + interval '1 hour' END, {_AT}, {_AT}
            FROM {_N} JOIN (VALUES (0, 'committed', 2), (1, 'committed', 2), (2, 'committed', 2), (3, 'committed', 2),
                (4, 'committed', 2), (5, 'refused', 1), (6, 'released', 2), (7, 'restocked', 3), (8, 'released', 1),
                (9, 'held', 1)) AS story (number, stock, version) ON number = n % 10;
        INSERT INTO reservation_lines SELECT order_id, sku, quantity FROM lines WHERE number <> 8;
        INSERT INTO movements SELECT sku, 1 + row_number() OVER counted, gen_random_uuid(), kind, quantity,
                1000000 + sum(quantity) OVER counted, concat('order:', order_id, ':', kind), 'order_service'
            FROM (SELECT n, order_id, sku, kind, sign * quantity AS quantity, sign FROM lines
                  JOIN (VALUES ('committed', -1), ('restocked', 1)) AS effects (kind, sign)
                  ON number < 5 AND sign < 0 OR number = 7) AS moved
            WINDOW counted AS (PARTITION BY sku ORDER BY n, sign);
        UPDATE stock_levels SET version = 1000000, reserved = held FROM (
            SELECT sku, sum(quantity) AS held FROM lines WHERE number = 9 GROUP BY sku) h
            WHERE h.sku = stock_levels.sku;""",
    "payment": f"""
        SET session_replication_role = replica;
        INSERT INTO payments SELECT md5('payment' || n)::uuid, {_ORDER}, 'customer-' || n % 100, 'EUR', {_TOTAL},
            'pm_card_visa', state, version, captured, refunded, CASE state WHEN 'declined' THEN 'card_declined' END,
            NULL, NULL, {_AT}, {_AT}
            FROM {_N} JOIN (VALUES (0, 'captured', 2, {_TOTAL}, 0), (1, 'captured', 2, {_TOTAL}, 0),
                (2, 'captured', 2, {_TOTAL}, 0), (3, 'captured', 2, {_TOTAL}, 0), (4, 'captured', 2, {_TOTAL}, 0),
                (6, 'declined', 2, 0, 0), (7, 'refunded', 4, {_TOTAL}, {_TOTAL}), (9, 'processing', 1, 0, 0))
                AS story (number, state, version, captured, refunded) ON number = n % 10;
        INSERT INTO operations SELECT md5(kind || n)::uuid, md5('payment' || n)::uuid, kind, 1,
            concat({_ORDER}, ':', kind, ':1'), {_TOTAL},
            CASE n % 10 WHEN 6 THEN 'failed' WHEN 9 THEN 'pending' ELSE 'succeeded' END, 1,
            CASE n % 10 WHEN 9 THEN now() + interval '1 hour' END, NULL, NULL, gen_random_uuid(), NULL, NULL, {_AT}, {_AT}
            FROM {_N} JOIN (VALUES ('charge'), ('refund')) AS kinds (kind)
            ON n % 10 NOT IN (5, 8) AND (kind = 'charge' OR n % 10 = 7);
        INSERT INTO ledger_journals SELECT id, payment_id, CASE kind WHEN 'charge' THEN 'capture' ELSE 'refund' END,
            'EUR', {_AT} FROM operations WHERE state = 'succeeded';
        INSERT INTO ledger_entries SELECT operation_id, account,
            {_TOTAL} * CASE (kind = 'capture') = (account = 'provider_clearing') WHEN true THEN 1 ELSE -1 END
            FROM ledger_journals, (VALUES ('provider_clearing'), ('customer_receipts')) AS accounts (account);""",
    "provider": f"""
        INSERT INTO charges (reference, key, amount, currency, method, state, captured, refunded)
            SELECT 'sim_' || n, concat({_ORDER}, ':charge:1'), {_TOTAL}, 'EUR', 'pm_card_visa',
            CASE n % 10 WHEN 6 THEN 'declined' WHEN 9 THEN 'open' ELSE 'captured' END,
            CASE WHEN n % 10 IN (6, 9) THEN 0 ELSE {_TOTAL} END, CASE n % 10 WHEN 7 THEN {_TOTAL} ELSE 0 END
            FROM {_N} WHERE n % 10 NOT IN (5, 8);
        INSERT INTO refunds SELECT concat({_ORDER}, ':refund:1'), 'sim_' || n, {_TOTAL}, 'refunded'
            FROM {_N} WHERE n % 10 = 7;""",
}  # fmt: skip


_RESOLVED: Final = {
    "order": """
        UPDATE order_history SET kind = 'payment_refund_failed', status = 'cancelling', payment = 'refund_failed'
            WHERE order_id = '{order}' AND version = 9;
        INSERT INTO order_history (order_id, version, at, kind, actor, note, status, goal, reason, stock, payment)
            SELECT order_id, 10, at, 'resolved', 'olga', 'bank transfer 4711', status, goal, reason, stock, payment
            FROM order_history WHERE order_id = '{order}' AND version = 9;
        UPDATE orders SET status = 'cancelling', payment = 'refund_failed', version = 10, resolved_at =
            (SELECT at FROM order_history WHERE order_id = '{order}' AND version = 10) WHERE id = '{order}';""",
    "payment": """
        SET session_replication_role = replica;
        DELETE FROM ledger_entries e USING operations o WHERE o.id = e.operation_id AND key = '{order}:refund:1';
        DELETE FROM ledger_journals j USING operations o WHERE o.id = j.operation_id AND key = '{order}:refund:1';
        UPDATE operations SET state = 'failed' WHERE key = '{order}:refund:1';
        UPDATE payments SET state = 'refund_failed', refunded = 0 WHERE order_id = '{order}';""",
    "provider": """
        UPDATE refunds SET state = 'refund_failed' WHERE key = '{order}:refund:1';
        UPDATE charges SET refunded = 0 WHERE key = '{order}:charge:1';""",
}


def order_id(number: int) -> str:
    """The id of order `number`, whose story is that of its last digit."""
    return str(UUID(hashlib.md5(f"order{number}".encode()).hexdigest()))


def write_orders(
    instance: Instance, names: Mapping[str, str], count: int, *, skus: int, in_flight: bool = True
) -> None:
    """Write `count` orders into databases that have none, given by service; a tenth of them in flight, or
    left out."""
    which = "true" if in_flight else "n % 10 <> 9"
    for service, sql in _SQL.items():
        _execute(instance, names[service], sql.format(count=count, skus=skus, which=which))
        _execute(instance, names[service], "VACUUM ANALYZE")


@dataclass
class Books:
    """The databases of one platform, by service: names of databases of the instance."""

    instance: Instance
    names: dict[str, str] = field(default_factory=dict)

    @classmethod
    def written(cls, databases: Databases, count: int, *, skus: int = 50) -> "Books":
        """Fresh databases with `count` orders, a tenth of them in flight."""
        books = cls(databases.instance, {s: databases.fresh(name) for s, name in NAMES.items()})
        write_orders(books.instance, books.names, count, skus=skus)
        return books

    @property
    def urls(self) -> dict[str, str]:
        """As the services' own roles: an auditor needs no more."""
        return {
            service: self.instance.postgres_url(name, f"{service}_service")
            for service, name in self.names.items()
        }

    @property
    def environment(self) -> dict[str, str]:
        return {f"AUDIT_{service.upper()}_DATABASE_URL": url for service, url in self.urls.items()}

    def execute(self, service: str, sql: str) -> None:
        """As superuser, who may do what no role of ours can."""
        _execute(self.instance, self.names[service], sql)

    def resolve(self, number: int) -> None:
        """Let the refund of order `number`, whose story is that of 7, have failed, and be made elsewhere."""
        order = order_id(number)
        for service, sql in _RESOLVED.items():
            self.execute(service, sql.format(order=order))

    def copy(self, service: str) -> "Books":
        """The same, with a copy of one database, to be spoilt."""
        name = f"{self.names[service]}_copy"
        _execute(self.instance, "postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        _execute(
            self.instance,
            "postgres",
            f"CREATE DATABASE {name} TEMPLATE {self.names[service]} OWNER {OWNERS[NAMES[service]]}",
        )
        return Books(self.instance, self.names | {service: name})

    def look(self, patience: Patience = IMPATIENT, **options: object) -> Report:
        opened = engines(self.urls)
        try:
            return look(opened, patience, **options)  # type: ignore[arg-type]
        finally:
            for engine in opened.values():
                engine.dispose()


def _execute(instance: Instance, database: str, sql: str) -> None:
    connection = psycopg2.connect(instance.postgres_url(database, "postgres"))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
    finally:
        connection.close()


def measure(count: int) -> None:
    """Look at `count` orders three times, on an instance of its own, and print what it took."""
    with TemporaryDirectory(prefix="ecom-audited-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o755)
        with Instance(home, ports=Ports.free()) as instance:
            instance.start("postgres")
            databases = Databases.from_migrations(instance)
            books = Books.written(databases, count, skus=max(50, count // 100))
            for _ in range(3):
                print(as_text(books.look(), most=5).splitlines()[-1], flush=True)


if __name__ == "__main__":
    measure(int(sys.argv[1]))
