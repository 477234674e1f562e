"""The auditor finds nothing in consistent books, and names each invariant that is broken on purpose."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import httpx
import pytest
from ecom_audit.__main__ import main
from ecom_audit.databases import engines
from ecom_audit.invariants import INVARIANTS
from ecom_audit.look import Patience
from ecom_local.ports import Ports
from sqlalchemy import text
from sqlalchemy.exc import InternalError

from tests.support.audited import Books, order_id
from tests.support.databases import Databases
from tests.support.shop import until

# What becomes of an order is in its last digit.
BOUGHT, DECLINED, REFUNDED, TOMBSTONE, OPEN = (order_id(n) for n in (100, 106, 107, 108, 109))
RESOLVED = order_id(207)
"""Like REFUNDED, but that its refund failed and was made elsewhere; see `resolve`."""
TWIN = order_id(200)
"""Bought by the same customer as BOUGHT."""

# As superuser: no constraint that could be dropped stops us, and in this mode no trigger or foreign key.
UNGUARDED = "SET session_replication_role = replica;"
NOT_ABOUT_ORDERS = {"keys", "ledger", "on-hand", "reserved", "oversold", "movements"}

COPY_OF_CHARGE = """
    INSERT INTO operations SELECT gen_random_uuid(), payment_id, kind, 2, key || '2', amount, 'failed', attempts,
        NULL, NULL, NULL, cause_id, NULL, NULL, created_at, updated_at FROM operations"""

# database, corruption, and the invariants that are broken by it: these and no others.
CORRUPTIONS = [
    # ---- acknowledged is durable
    ("order", "UPDATE idempotency_keys SET resource_id = gen_random_uuid()::text WHERE key = 'key-100'", "keys"),
    ("order", "UPDATE idempotency_keys SET subject = 'mallory' WHERE key = 'key-100'", "keys"),
    ("order", """ALTER TABLE idempotency_keys DROP CONSTRAINT pk_idempotency_keys;
        INSERT INTO idempotency_keys SELECT * FROM idempotency_keys WHERE key = 'key-100'""", "keys"),
    ("inventory", "UPDATE idempotency_keys SET resource_id = 'lost' WHERE key = 'SKU-1'", "keys"),
    ("order", f"""ALTER TABLE orders DROP CONSTRAINT uq_orders_customer_id;
        UPDATE orders SET checkout_id = 'twice' WHERE id IN ('{BOUGHT}', '{TWIN}')""", "checkouts"),
    ("order", f"""{UNGUARDED} DELETE FROM order_history WHERE order_id = '{BOUGHT}';
        DELETE FROM order_lines WHERE order_id = '{BOUGHT}'; DELETE FROM orders WHERE id = '{BOUGHT}';
        DELETE FROM idempotency_keys WHERE resource_id = '{BOUGHT}'""", "known-orders"),
    ("order", f"""ALTER TABLE order_lines DROP CONSTRAINT ck_order_lines_total;
        UPDATE order_lines SET total = total + 1 WHERE order_id = '{BOUGHT}' AND position = 1""", "totals"),
    # ---- money
    ("order", f"""UPDATE orders SET total = total + 1 WHERE id = '{BOUGHT}';
        UPDATE order_lines SET unit_price = 501, total = 501 WHERE order_id = '{BOUGHT}' AND position = 1""", "money"),
    ("order", f"""UPDATE orders SET status = 'cancelled', goal = 'abort', reason = 'timed_out', stock = 'restocked',
        payment = 'refunded' WHERE id = '{BOUGHT}'""", "money agreement present"),
    ("payment", f"""{UNGUARDED} DELETE FROM operations USING payments p WHERE p.id = payment_id AND order_id = '{BOUGHT}';
        DELETE FROM payments WHERE order_id = '{BOUGHT}'""", "money agreement booked provider"),
    ("payment", f"""ALTER TABLE operations DROP CONSTRAINT ck_operations_number;
        {COPY_OF_CHARGE} WHERE key = '{BOUGHT}:charge:1'""", "one-charge"),
    ("payment", f"""ALTER TABLE payments DROP CONSTRAINT uq_payments_order_id;
        INSERT INTO payments SELECT gen_random_uuid(), order_id, customer_id, currency, amount, method, state, version,
        captured, refunded, decline_code, NULL, NULL, created_at, updated_at
        FROM payments WHERE order_id = '{DECLINED}'""", "one-charge"),
    ("provider", f"""INSERT INTO charges (reference, key, amount, currency, method, state, captured)
        VALUES ('twice', '{BOUGHT}:charge:2', 1500, 'EUR', 'pm_card_visa', 'captured', 1500)""", "one-charge provider"),
    ("payment", f"""{UNGUARDED} UPDATE ledger_entries e SET amount = e.amount - 1 FROM operations o
        WHERE o.id = operation_id AND key = '{BOUGHT}:charge:1' AND account = 'customer_receipts'""", "ledger"),
    ("payment", f"""{UNGUARDED} DELETE FROM ledger_entries e USING operations o
        WHERE o.id = operation_id AND key = '{BOUGHT}:charge:1'""", "ledger booked provider"),
    ("payment", f"""{UNGUARDED} DELETE FROM ledger_journals j USING operations o
        WHERE o.id = operation_id AND key = '{BOUGHT}:charge:1'""", "ledger booked provider"),
    ("payment", f"UPDATE operations SET amount = amount - 1 WHERE key = '{BOUGHT}:charge:1'", "booked"),
    ("payment", f"UPDATE operations SET state = 'failed' WHERE key = '{BOUGHT}:charge:1'", "booked"),
    ("payment", f"UPDATE payments SET captured = captured - 1 WHERE order_id = '{BOUGHT}'", "money booked"),
    ("provider", f"DELETE FROM charges WHERE key = '{BOUGHT}:charge:1'", "provider"),
    ("provider", f"UPDATE charges SET captured = captured - 1 WHERE key = '{BOUGHT}:charge:1'", "provider"),
    ("provider", f"UPDATE charges SET currency = 'USD' WHERE key = '{BOUGHT}:charge:1'", "provider"),
    ("provider", f"""UPDATE charges SET state = 'captured', captured = amount
        WHERE key = '{DECLINED}:charge:1'""", "provider"),
    ("provider", """INSERT INTO charges (reference, key, amount, currency, method, state, captured)
        VALUES ('alien', 'nobody:charge:1', 1, 'EUR', 'pm_card_visa', 'captured', 1)""", "provider"),
    ("provider", f"UPDATE charges SET refunded = 1 WHERE key = '{BOUGHT}:charge:1'", "provider"),
    ("provider", f"UPDATE refunds SET amount = amount - 1 WHERE key = '{REFUNDED}:refund:1'", "provider"),
    ("provider", f"UPDATE refunds SET state = 'refund_failed' WHERE key = '{REFUNDED}:refund:1'", "provider"),
    ("payment", f"UPDATE payments SET state = 'captured', version = 3 WHERE order_id = '{RESOLVED}'", "agreement"),
    ("payment", f"UPDATE payments SET captured = captured - 1 WHERE order_id = '{RESOLVED}'", "money booked"),
    # ---- stock
    ("inventory", "UPDATE stock_levels SET on_hand = on_hand + 1 WHERE sku = 'SKU-1'", "on-hand"),
    ("inventory", "UPDATE stock_levels SET reserved = reserved + 1 WHERE sku = 'SKU-1'", "reserved"),
    ("inventory", """ALTER TABLE stock_levels DROP CONSTRAINT ck_stock_levels_reserved;
        INSERT INTO movements SELECT sku, 10000000, gen_random_uuid(), 'counted', -on_hand, 0, 'a fault', 'x'
        FROM stock_levels WHERE reserved > 0 LIMIT 1""", "oversold"),
    ("inventory", f"""UPDATE reservations SET state = 'held', expires_at = now() + interval '1 hour'
            WHERE order_id = '{DECLINED}';
        UPDATE stock_levels l SET reserved = reserved + quantity FROM reservation_lines r
            WHERE r.sku = l.sku AND order_id = '{DECLINED}'""", "held"),
    ("inventory", """ALTER TABLE movements DROP CONSTRAINT uq_movements_sku_cause;
        INSERT INTO movements SELECT m.sku, 10000000, gen_random_uuid(), kind, 1, on_hand + 1, cause, actor
        FROM movements m JOIN stock_levels l USING (sku) WHERE m.sku = 'SKU-1' AND kind = 'received'""", "movements"),
    ("inventory", f"""{UNGUARDED} UPDATE movements SET on_hand_after = on_hand_after - 1
        WHERE cause = 'order:{BOUGHT}:committed'""", "movements"),
    ("inventory", f"""{UNGUARDED} DELETE FROM movements
        WHERE cause = 'order:{BOUGHT}:committed'""", "committed on-hand movements"),
    ("inventory", f"""{UNGUARDED} UPDATE movements SET cause = 'order:{DECLINED}:committed'
        WHERE cause = 'order:{BOUGHT}:committed'""", "committed"),
    ("inventory", f"UPDATE reservation_lines SET quantity = 7 WHERE order_id = '{BOUGHT}'", "committed"),
    ("inventory", f"DELETE FROM reservation_lines WHERE order_id = '{DECLINED}' AND quantity = 2", "committed"),
    ("inventory", f"UPDATE reservations SET state = 'committed' WHERE order_id = '{RESOLVED}'", "agreement committed"),
    # ---- agreement
    ("inventory", f"""UPDATE reservations SET state = 'refused', shortages = '[1]'
        WHERE order_id = '{DECLINED}'""", "agreement"),
    ("inventory", f"""{UNGUARDED} DELETE FROM reservations WHERE order_id = '{TOMBSTONE}'""", "agreement"),
    ("inventory", f"UPDATE reservations SET state = 'restocked' WHERE order_id = '{BOUGHT}'", "agreement committed"),
    ("payment", f"UPDATE payments SET state = 'refunding', version = 3 WHERE order_id = '{BOUGHT}'", "agreement"),
    ("order", f"UPDATE orders SET payment = 'unknown', payment_version = 2 WHERE id = '{OPEN}'", "agreement present"),
    # ---- nothing is forgotten
    ("order", f"UPDATE orders SET deadline_at = now() - interval '1 hour', updated_at = now() - interval '1 hour' WHERE id = '{OPEN}'", "stuck"),
    ("order", f"UPDATE orders SET due_at = NULL WHERE id = '{OPEN}'", "stuck"),
    ("order", f"UPDATE orders SET due_at = now() - interval '1 hour' WHERE id = '{OPEN}'", "stuck"),
    ("inventory", f"UPDATE reservations SET expires_at = now() - interval '1 hour' WHERE order_id = '{OPEN}'", "stuck"),
    ("payment", f"UPDATE operations SET next_attempt_at = now() - interval '1 hour' WHERE key = '{OPEN}:charge:1'", "stuck"),
    ("payment", f"UPDATE operations SET next_attempt_at = NULL WHERE key = '{OPEN}:charge:1'", "stuck"),
    *((service, f"""INSERT INTO outbox (topic, key, payload, created_at)
        VALUES ('orders.events', '{BOUGHT}', '', now() - interval '1 hour')""", "outboxes")
      for service in ("order", "inventory", "payment")),
    # ---- histories
    ("order", f"DELETE FROM order_history WHERE order_id = '{BOUGHT}' AND version = 3", "versions"),
    ("order", f"UPDATE orders SET version = version + 1 WHERE id = '{BOUGHT}'", "versions"),
    ("order", f"DELETE FROM order_history WHERE order_id = '{BOUGHT}' AND version = 1", "versions transitions"),
    ("order", f"UPDATE order_history SET status = 'confirmed' WHERE order_id = '{BOUGHT}' AND version = 3", "transitions"),
    ("order", f"UPDATE order_history SET kind = 'flagged' WHERE order_id = '{BOUGHT}' AND version = 3", "transitions"),
    ("order", f"UPDATE orders SET reason = 'cancelled_by_operator' WHERE id = '{REFUNDED}'", "present"),
    ("order", f"UPDATE order_history SET at = at - interval '1 day' WHERE order_id = '{RESOLVED}' AND kind = 'resolved'",
     "present"),
    ("order", f"UPDATE order_history SET payment = 'captured' WHERE order_id = '{RESOLVED}' AND version >= 8",
     "transitions present"),
    ("order", f"""DROP INDEX uq_order_history_message_id; UPDATE order_history
        SET message_id = '{BOUGHT}' WHERE order_id = '{BOUGHT}' AND message_id IS NOT NULL""", "messages"),
]  # fmt: skip


@pytest.fixture(scope="module")
def books(databases: Databases) -> Books:
    books = Books.written(databases, 220)
    books.resolve(207)
    return books


def test_consistent_books_are_clean_and_their_open_orders_in_flight(books: Books) -> None:
    report = books.look()
    assert report.violations == []
    assert (report.orders, report.open_orders, report.moving) == (220, 22, 0)


def test_every_invariant_is_corrupted_somewhere() -> None:
    assert {name for _, _, names in CORRUPTIONS for name in names.split()} == set(INVARIANTS)


@pytest.mark.parametrize(
    ("service", "corruption", "broken"),
    CORRUPTIONS,
    ids=[f"{n}-{broken.split()[0]}" for n, (_, _, broken) in enumerate(CORRUPTIONS)],
)
def test_what_is_corrupted_on_purpose_is_named_and_nothing_else(
    books: Books, service: str, corruption: str, broken: str
) -> None:
    spoilt = books.copy(service)
    spoilt.execute(service, corruption)
    report = spoilt.look()

    assert {v.invariant for v in report.violations} == set(broken.split()), report.violations
    assert report.moving == 0
    found = [v.subject[:36] for v in report.violations if v.invariant not in NOT_ABOUT_ORDERS]
    assert not found or any(subject in corruption for subject in found)
    assert all(v.left and v.right and v.left != v.right for v in report.violations)


# ---- what is on its way


def test_a_difference_that_has_just_come_up_is_in_flight(books: Books) -> None:
    spoilt = books.copy("payment")
    spoilt.execute(
        "payment",
        f"UPDATE payments SET state = 'refunding', version = 3, updated_at = now() WHERE order_id = '{BOUGHT}'",
    )
    report = spoilt.look(Patience(settle_s=60, pause_s=59), sleep=lambda _: None)
    assert (report.violations, report.moving) == ([], 1)


def test_a_difference_that_is_gone_at_the_second_look_was_none(books: Books) -> None:
    spoilt = books.copy("payment")
    spoilt.execute(
        "payment",
        f"UPDATE payments SET version = 3, state = 'refunding' WHERE order_id = '{BOUGHT}'",
    )

    def repair(_: float) -> None:
        spoilt.execute(
            "payment",
            f"UPDATE payments SET version = 2, state = 'captured' WHERE order_id = '{BOUGHT}'",
        )

    report = spoilt.look(sleep=repair)
    assert (report.violations, report.moving) == ([], 0)


def test_a_difference_that_goes_on_changing_is_in_flight(books: Books) -> None:
    spoilt = books.copy("payment")
    change = f"UPDATE payments SET version = version + 1, state = 'refunding' WHERE order_id = '{BOUGHT}'"
    spoilt.execute("payment", change)
    report = spoilt.look(sleep=lambda _: spoilt.execute("payment", change))
    assert (report.violations, report.moving) == ([], 1)


def test_money_that_the_provider_took_and_nobody_has_heard_of_yet_is_in_flight(
    books: Books,
) -> None:
    spoilt = books.copy("provider")
    spoilt.execute(
        "provider",
        "UPDATE charges SET state = 'processing', captures_at = now() - interval '1 second' "
        f"WHERE key = '{OPEN}:charge:1'",
    )
    report = spoilt.look()
    assert (report.violations, report.moving) == ([], 1)


def test_a_cancellation_long_after_the_deadline_is_not_stuck(books: Books) -> None:
    spoilt = books.copy("order")
    spoilt.execute(
        "order",
        f"UPDATE orders SET deadline_at = now() - interval '1 day', updated_at = now() WHERE id = '{OPEN}'",
    )
    assert spoilt.look().violations == []


# ---- attention


def test_dead_letters_flagged_and_lost_orders_are_shown_and_only_strictly_wrong(
    books: Books,
) -> None:
    spoilt = books.copy("order")
    spoilt.execute(
        "order",
        f"""{UNGUARDED}
        INSERT INTO dead_letters (source_topic, source_partition, source_offset, key, payload, digest, error, stack)
            VALUES ('payment.events', 1, 7, '\\xff41', '', '', 'broken', '');
        UPDATE orders SET flagged_at = now(), due_at = NULL WHERE id = '{OPEN}';
        DELETE FROM order_history WHERE order_id = '{TOMBSTONE}';
        DELETE FROM order_lines WHERE order_id = '{TOMBSTONE}';
        DELETE FROM orders WHERE id = '{TOMBSTONE}';
        DELETE FROM idempotency_keys WHERE resource_id = '{TOMBSTONE}'""",
    )
    report = spoilt.look()
    assert report.violations == []
    assert [(a.kind, a.subject) for a in report.attention] == [
        ("dead letter", "\\377A"), ("flagged", OPEN), ("resolved", RESOLVED), ("lost order", TOMBSTONE),
    ]  # fmt: skip
    assert report.open_orders == 21
    assert _audit(spoilt)[0] == 0
    assert _audit(spoilt, "--strict")[0] == 1


def test_a_resolved_order_is_shown_with_who_settled_it_and_is_not_stuck(books: Books) -> None:
    spoilt = books.copy("order")
    spoilt.execute(
        "order",
        f"""UPDATE orders SET deadline_at = now() - interval '1 day', updated_at = now() - interval '1 day'
        WHERE id = '{RESOLVED}'""",
    )
    report = spoilt.look()
    assert report.violations == []
    (shown,) = report.attention
    assert (shown.kind, shown.subject) == ("resolved", RESOLVED)
    assert (
        "cancelling (stock restocked, payment refund_failed), settled elsewhere at " in shown.note
    )
    assert shown.note.endswith(" by olga: bank transfer 4711")


def test_a_participant_that_was_restored_and_asked_again_is_shown_and_not_wrong(
    books: Books,
) -> None:
    spoilt = books.copy("payment").copy("inventory")
    spoilt.execute(
        "payment",
        f"""{UNGUARDED} DELETE FROM operations USING payments p WHERE p.id = payment_id AND order_id = '{DECLINED}';
        UPDATE payments SET state = 'cancelled', version = 1, decline_code = NULL WHERE order_id = '{DECLINED}'""",
    )
    spoilt.execute(
        "inventory",
        f"""{UNGUARDED} UPDATE reservations SET state = 'released', version = 1 WHERE order_id = '{DECLINED}';
        DELETE FROM reservation_lines WHERE order_id = '{DECLINED}'""",
    )
    report = spoilt.look()
    assert report.violations == []
    shown = [(a.kind, a.subject) for a in report.attention]
    assert shown == [("resolved", RESOLVED), *[("set back", DECLINED)] * 2]


# ---- the command


def _audit(books: Books, *arguments: str, **environment: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in (books.environment | environment).items():
            patch.setenv(name, value)
        code = main(["--settle", "0.2", "--pause", "0.1", *arguments])
    return code, out.getvalue(), err.getvalue()


def test_the_command_says_clean(books: Books) -> None:
    code, out, err = _audit(books)
    assert (code, err) == (0, "")
    assert _audit(books, "--strict")[0] == 0  # what is resolved waits for nobody
    lines = out.splitlines()
    assert [line[0] for line in lines[:-1]] == ["✓"] * len(INVARIANTS) + ["!"]
    assert lines[-2].startswith(f"! resolved  {RESOLVED}  ")
    assert lines[-1].startswith("clean: 220 orders, 22 of them in flight, 0 differences")


def test_the_command_shows_both_sides_of_a_violation(books: Books) -> None:
    spoilt = books.copy("payment")
    spoilt.execute("payment", f"UPDATE payments SET captured = 1 WHERE order_id = '{BOUGHT}'")
    code, out, _ = _audit(spoilt)
    assert code == 1
    assert (
        f"✗ money  {BOUGHT}  order confirmed, total 1500 EUR  |  "
        "payment of 1500 EUR: captured 1, refunded 0"
    ) in out.splitlines()
    assert out.splitlines()[-1].startswith("2 of 22 invariants violated: ")

    code, out, _ = _audit(spoilt, "--json")
    document: dict[str, Any] = json.loads(out)
    assert (code, document["clean"], document["in_flight"]["orders"]) == (1, False, 22)
    assert {v["subject"] for v in document["violations"]} == {BOUGHT}
    assert document["invariants"]["money"] == 1


def test_the_command_counts_what_it_does_not_show(books: Books) -> None:
    spoilt = books.copy("inventory")
    spoilt.execute("inventory", "UPDATE stock_levels SET reserved = reserved + 1")
    _, out, _ = _audit(spoilt, "--lines", "3")
    shown = [line for line in out.splitlines() if line.startswith("✗ reserved  ")]
    assert [line for line in shown if "more" in line] == ["✗ reserved  … and 47 more"]


def test_whoever_cannot_look_says_why(books: Books) -> None:
    code, out, err = _audit(books, AUDIT_ORDER_DATABASE_URL="")
    assert (code, out, err) == (2, "", "could not look: AUDIT_ORDER_DATABASE_URL must be set\n")
    code, _, err = _audit(books, AUDIT_ORDER_DATABASE_URL="mysql://a:secret@b/c")
    assert (code, "secret" in err) == (2, False)
    nowhere = f"postgresql://u:secret@127.0.0.1:{Ports.free().postgres}/orderdb"
    code, out, err = _audit(books, AUDIT_ORDER_DATABASE_URL=nowhere)
    assert (code, out, "refused" in err, "secret" in err) == (2, "", True, False)
    wrong = books.environment["AUDIT_PAYMENT_DATABASE_URL"]
    code, _, err = _audit(books, AUDIT_ORDER_DATABASE_URL=wrong)
    assert (code, "orders" in err) == (2, True)


def test_the_auditor_cannot_write(books: Books) -> None:
    opened = engines(books.urls)
    for engine in opened.values():
        with engine.connect() as connection, pytest.raises(InternalError, match="read-only"):
            connection.execute(text("CREATE TABLE mine ()"))
        engine.dispose()


@pytest.fixture
def watching(books: Books) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = Ports.free().order
    command = [sys.executable, "-m", "ecom_audit", "--watch", "0.1", "--json", "--port", str(port)]
    process = subprocess.Popen(
        command, env=os.environ | books.environment, stdout=subprocess.PIPE, text=True
    )
    yield process, f"http://127.0.0.1:{port}/metrics"
    process.kill()
    process.communicate()


def test_watching_goes_on_and_exports_what_it_sees(
    watching: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = watching
    assert process.stdout is not None
    for _ in range(2):
        assert json.loads(process.stdout.readline())["clean"] is True

    def exported() -> bool:
        text = httpx.get(url).text
        return all(
            line in text
            for line in (
                'ecom_audit_violations{invariant="money"} 0.0',
                'ecom_audit_attention{kind="flagged"} 0.0',
                "ecom_audit_orders 220.0",
                "ecom_audit_in_flight_orders 22.0",
                "ecom_audit_up 1.0",
            )
        )

    until(exported, timeout_s=10)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0
