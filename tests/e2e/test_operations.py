"""Operators at work on the running platform: what has got stuck is found, mended and carried on, and audited."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

import psycopg2
import pytest
from confluent_kafka import Producer
from ecom_contracts.topics import ORDERS_EVENTS
from ecom_local.instance import Instance

from tests.checks.files import REPOSITORY
from tests.conftest import SETTINGS
from tests.support.auditing import audit
from tests.support.broker import Broker
from tests.support.shop import Shop, until

REASON: Final = ("--reason", "a test of ours", "--actor", "olga")
# A command is given up on after some tenths of a second, where it would be after half an hour.
IMPATIENT: Final = {"MAX_ASKS": "2", "ASK_AGAIN_AFTER_S": "0.2", "ASK_AGAIN_AT_MOST_S": "0.2"}
PATIENT: Final = {"ASK_AGAIN_AFTER_S": "600", "ASK_AGAIN_AT_MOST_S": "600"}


class Ops:
    """scripts/ops on the instance."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [REPOSITORY / "scripts" / "ops", *arguments],
            env=os.environ | {"ECOM_HOME": str(self.instance.layout.home)},
            capture_output=True,
            text=True,
            check=False,
        )

    def do(self, *arguments: str) -> str:
        """A command that changes something, and succeeds."""
        done = self.run(*arguments, *REASON)
        assert done.returncode == 0, done
        return done.stdout

    def ask(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def attention(self, subject: str) -> list[str]:
        """What the auditor shows of the subject; there must be no violation."""
        document = audit(self.instance)
        assert document["violations"] == []
        return [a["kind"] for a in document["attention"] if a["subject"] == subject]


@pytest.fixture
def ops(shop: Shop, instance: Instance) -> Ops:
    return Ops(instance)


@contextmanager
def order_with(instance: Instance, settings: dict[str, str]) -> Iterator[None]:
    """The order service with other settings, for a while; neither deadline nor TTL hurries the operator."""
    own = {
        "order": {**SETTINGS["order"], "ORDER_DEADLINE_S": "900", **settings},
        "inventory-worker": {"RESERVATION_TTL_S": "1200"},
    }
    parts = ("order-api", "order-worker", "inventory-worker")
    Instance(instance.layout.home, ports=instance.ports, environment={**SETTINGS, **own}).start(
        *parts
    )
    try:
        yield
    finally:
        instance.start(*parts)


@contextmanager
def a_bug_for(instance: Instance, customer: str) -> Iterator[None]:
    """Every payment of this customer is more than the payment service can deal with, until the bug is fixed.

    In the database, so that the service's own code is what fails, and is what goes on afterwards.
    """
    name = f"bug_{uuid4().hex[:8]}"
    connection = psycopg2.connect(instance.postgres_url("paymentdb", "postgres"))
    connection.autocommit = True
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'a bug'; END $$; "
            f"CREATE TRIGGER {name} BEFORE INSERT ON payments FOR EACH ROW "
            f"WHEN (NEW.customer_id = '{customer}') EXECUTE FUNCTION {name}()"
        )
    try:
        yield
    finally:
        with connection, connection.cursor() as cursor:
            cursor.execute(f"DROP FUNCTION {name}() CASCADE")
        connection.close()


def letters(ops: Ops, key: str, *options: str) -> list[dict[str, Any]]:
    """The open letters of a key."""
    found: list[dict[str, Any]] = ops.ask("dead-letters", "list", "--key", key, *options)
    return found


@pytest.mark.timeout(300)
def test_poison_is_found_shown_mended_and_redriven_and_the_audit_is_clean(
    ops: Ops, shop: Shop, instance: Instance
) -> None:
    sku, customer = shop.item(stock=5), f"customer-{uuid4().hex[:8]}"
    with order_with(instance, PATIENT):
        with a_bug_for(instance, customer):
            order = shop.place({sku: 1}, customer=customer)["id"]
            until(lambda: bool(letters(ops, order, "--service", "payment")), timeout_s=60)

            (letter,) = letters(ops, order)
            assert (letter["type"], letter["state"]) == ("payment.charge.v1", "open")
            assert letter["letter"].startswith("payment/")
            shown = ops.ask("dead-letters", "show", letter["letter"])
            assert shown["error"].endswith("a bug")
            assert "Traceback" in shown["stack"]
            assert json.loads(shown["payload"])["data"]["customer_id"] == customer
            assert ops.ask("glance")["payment"]["dead letters"] == {"payment.commands": 1}
            assert ops.attention(order) == ["dead letter"]

        assert shop.order(order)["payment"] == "requested"
        assert "redriven" in ops.do("dead-letters", "redrive", letter["letter"])
        assert "was redriven already by olga" in ops.do("dead-letters", "redrive", letter["letter"])
        assert shop.until_final(order, timeout_s=60)["status"] == "confirmed"
    assert letters(ops, order) == []
    assert ops.attention(order) == []


@pytest.mark.timeout(300)
def test_a_flagged_order_is_found_and_carried_on_and_its_letters_are_discarded(
    ops: Ops, shop: Shop, instance: Instance
) -> None:
    sku, customer = shop.item(stock=5), f"customer-{uuid4().hex[:8]}"
    with order_with(instance, IMPATIENT):
        with a_bug_for(instance, customer):
            order = shop.place({sku: 1}, customer=customer)["id"]
            until(lambda: _trouble(ops, order) == "flagged", timeout_s=60)
            assert ops.attention(order)[-1] == "flagged"
        shown = ops.ask("show", order)
        assert shown["waits for"] == ["payment.charge.v1"]
        assert "payment.charge.v1" in ops.run("stuck").stdout

        assert "asked again: payment.charge.v1" in ops.do("retry", order)
        assert shop.until_final(order, timeout_s=60)["status"] == "confirmed"
    entry = next(e for e in shop.timeline(order) if e["kind"] == "asked_again")
    assert (entry["actor"], entry["note"]) == ("olga", "a test of ours")
    assert _trouble(ops, order) is None

    # What the bug had left behind would change nothing any more.
    names = [letter["letter"] for letter in letters(ops, order)]
    assert names
    assert ops.do("dead-letters", "discard", *names).count("discarded") == len(names)
    assert ops.attention(order) == []


def _trouble(ops: Ops, order: str) -> str | None:
    rows = {row["order"]: row["trouble"] for row in ops.ask("stuck")}
    return rows.get(order)


def _until_refund_failed(ops: Ops, shop: Shop, method: str) -> str:
    """An order that was paid, cancelled, and whose refund has failed for good."""
    order: str = shop.place({shop.item(stock=5): 1}, payment_method=method)["id"]
    assert shop.until_final(order)["status"] == "confirmed"
    shop.cancel(order)
    shop.until(order, lambda o: (o["stock"], o["payment"]) == ("restocked", "refund_failed"))
    assert _trouble(ops, order) == "refund_failed"
    assert order in {row["order"] for row in ops.ask("payments", "--state", "refund_failed")}
    assert ops.attention(order) == ["flagged"]
    return order


@pytest.mark.timeout(300)
def test_a_refund_that_has_failed_is_tried_again_and_made(ops: Ops, shop: Shop) -> None:
    order = _until_refund_failed(ops, shop, "pm_sim_refundFailsOnce")
    assert "asked again: payment.cancel.v1" in ops.do("retry", order)
    assert shop.until_final(order)["status"] == "cancelled"
    assert shop.taken(order) == 0
    assert ops.attention(order) == []


@pytest.mark.timeout(300)
def test_a_refund_that_cannot_be_made_is_settled_elsewhere(ops: Ops, shop: Shop) -> None:
    order = _until_refund_failed(ops, shop, "pm_sim_refundFails")
    assert "resolved: it is left alone" in ops.do("resolve", order)
    assert _trouble(ops, order) is None
    shown = shop.order(order)
    assert (shown["status"], shown["payment"]) == ("cancelling", "refund_failed")
    assert shown["resolved_at"] is not None
    assert ops.attention(order) == ["resolved"]
    assert ops.run("retry", order, *REASON).returncode == 1


def test_an_operator_cancels_with_a_reason(ops: Ops, shop: Shop) -> None:
    order = shop.place({shop.item(stock=5): 1})["id"]
    shop.until_final(order)
    assert "it is cancelling" in ops.do("cancel", order)
    cancelled = shop.until(order, lambda o: o["status"] == "cancelled")
    assert cancelled["reason"] == "cancelled_by_operator"
    assert "is cancelled already" in ops.do("cancel", order)
    assert ops.attention(order) == []


def test_bytes_that_nobody_can_read_are_discarded(ops: Ops, shop: Shop, instance: Instance) -> None:
    key = str(uuid4())
    producer = Producer({"bootstrap.servers": instance.kafka_bootstrap})
    topics = {
        "inventory.commands": "inventory",
        "payment.commands": "payment",
        "payment.events": "order",
    }
    for topic in topics:
        producer.produce(topic, b"\0\xff not json", key)
    assert producer.flush(10) == 0
    until(lambda: len(letters(ops, key)) == len(topics), timeout_s=60)
    found = letters(ops, key)
    assert {one["place"].split("/")[0]: one["letter"].split("/")[0] for one in found} == topics
    for one in found:
        assert "00000000  00 ff 20" in ops.run("dead-letters", "show", one["letter"]).stdout
        ops.do("dead-letters", "discard", one["letter"])
    assert letters(ops, key) == []
    assert ops.attention(key) == []


def test_the_catalogue_and_orders_are_told_again(ops: Ops, shop: Shop, instance: Instance) -> None:
    sku = shop.item(stock=5)
    order = shop.place({sku: 1})["id"]
    shop.until_final(order)
    broker = Broker.of(instance)

    def told(topic: str, key: str) -> list[dict[str, Any]]:
        return [json.loads(r.value or b"") for r in broker.read(topic) if r.key == key]

    until(lambda: len(told(ORDERS_EVENTS.name, order)) == 2, timeout_s=30)
    assert ops.ask("republish", "orders", order) == {"published": 1, "failed": 0}
    until(lambda: len(told(ORDERS_EVENTS.name, order)) == 4, timeout_s=30)
    first, second, *again = told(ORDERS_EVENTS.name, order)
    assert [_known_by(e) for e in again] == [_known_by(e) for e in (first, second)]
    assert len({e["id"] for e in (first, second, *again)}) == 4

    items = len(told("catalog", sku))
    assert ops.ask("republish", "catalogue", sku) == {"published": 1, "failed": 0}
    until(lambda: len(told("catalog", sku)) > items, timeout_s=30)
    shop.wait_until_orderable(sku)


def _known_by(event: dict[str, Any]) -> tuple[str, str, Any]:
    return event["type"], event["sequence"], event["data"]


def test_everything_is_seen_at_a_glance(ops: Ops) -> None:
    def quiet() -> bool:
        return {ops.ask("glance")[name]["lag"]["messages"] for name in ("order", "payment")} == {0}

    until(quiet, timeout_s=30)
    glance = ops.ask("glance")
    assert list(glance) == ["order", "inventory", "payment"]
    for name, shown in glance.items():
        assert shown["relay"]["application"] == f"{name}_service-relay"
        assert shown["lag"]["consumers"] == 1
    readable = ops.run("glance").stdout
    assert readable.count("  relay ") == 3
    assert ops.run("glance", "--service", "payment").stdout.splitlines()[0] == "payment_service"


def test_without_a_platform_it_says_that_nothing_runs(ops: Ops, tmp_path: Any) -> None:
    nowhere = replace(ops.instance.ports)
    lost = Ops(Instance(tmp_path, ports=nowhere))
    done = lost.run("glance")
    assert (done.returncode, "nothing runs here; start it with scripts/up" in done.stderr) == (
        2,
        True,
    )
