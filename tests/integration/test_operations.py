"""The operators' commands that every service has, dead letters and the glance, and inventory's and payment's own."""

import os
import subprocess
import sys

import pytest
from ecom_common import dead_letters, kafka
from ecom_common.bulk import send
from ecom_common.database import Sessions
from ecom_common.dead_letters import DeadLetter
from ecom_common.ids import new_id
from ecom_common.kafka import group_lag
from ecom_common.relay import Relay, make_relay_engine
from ecom_contracts.envelope import decode
from ecom_contracts.messages import ItemChanged, Message
from ecom_local.instance import Instance
from inventory_service import operations as inventory_operations
from inventory_service.commands import PutItem
from inventory_service.models import ItemContent
from inventory_service.service import handle_commands
from payment_service import operations as payment_operations
from sqlalchemy import Engine, text

from tests.support.broker import Broker
from tests.support.chassis import a_message
from tests.support.operating import Operator
from tests.support.payments import PaymentDesk
from tests.support.waiting import eventually

TOPIC = "inventory.commands"


@pytest.fixture
def sessions(inventory_sessions: Sessions) -> Sessions:
    return inventory_sessions


@pytest.fixture
def operator(sessions: Sessions, instance: Instance) -> Operator:
    return Operator.of(
        inventory_operations.main, database_url=_url(sessions), kafka=instance.kafka_bootstrap
    )


def _url(sessions: Sessions) -> str:
    bind = sessions.kw["bind"]
    assert isinstance(bind, Engine)
    return bind.url.set(drivername="postgresql").render_as_string(hide_password=False)


def bury(sessions: Sessions, *payloads: bytes, topic: str = TOPIC, key: bytes = b"order-1") -> None:
    letters = [
        DeadLetter(topic, 2, number, key, payload, "ZeroDivisionError: by zero", "Traceback …\n  here")
        for number, payload in enumerate(payloads)
    ]  # fmt: skip
    with sessions.begin() as session:
        dead_letters.bury(session, letters, topic="inventory_service.dead-letter")
        send(session)
        session.execute(text("DELETE FROM outbox"))


def sent(sessions: Sessions) -> list[tuple[str, str, bytes]]:
    with sessions() as session:
        rows = session.execute(text("SELECT topic, key, payload FROM outbox ORDER BY id"))
        return [(row.topic, row.key, bytes(row.payload)) for row in rows]


# ---- dead letters


def test_letters_are_listed_by_their_name_place_type_and_error(
    sessions: Sessions, operator: Operator
) -> None:
    bury(sessions, a_message(), b"\0\xff")
    first, second = operator.ask("dead-letters", "list")
    assert (first["letter"], first["type"]) == ("inventory/1", "stock.commit.v1")
    assert (second["place"], second["type"], second["key"]) == (f"{TOPIC}/2 #1", None, "order-1")
    said = operator.run("dead-letters", "list").out
    assert "inventory_service: 2 open, 2 shown" in said
    assert "→ ecom-ops dead-letters show inventory/1" in said


def test_letters_are_listed_by_state_topic_and_key(sessions: Sessions, operator: Operator) -> None:
    bury(sessions, b"a", b"b")
    bury(sessions, b"c", topic="catalog", key=b"tea")
    operator.do("dead-letters", "discard", "2")

    def names(*options: str) -> list[str]:
        return [one["letter"] for one in operator.ask("dead-letters", "list", *options)]

    assert names() == ["inventory/1", "inventory/3"]
    assert names("--state", "discarded") == ["inventory/2"]
    assert names("--state", "all", "--limit", "2") == ["inventory/1", "inventory/2"]
    assert names("--topic", "catalog") == names("--key", "tea") == ["inventory/3"]


def test_a_letter_is_shown_whole(sessions: Sessions, operator: Operator) -> None:
    bury(sessions, a_message(), b"\0\xff" * 20)
    readable = operator.run("dead-letters", "show", "inventory/1").out
    assert a_message().decode()[:20] in readable
    assert "ZeroDivisionError: by zero" in readable
    assert "  Traceback …\n    here" in readable
    assert "ecom-ops dead-letters redrive inventory/1 --reason …" in readable
    assert "00000000  00 ff 00 ff" in operator.run("dead-letters", "show", "2").out
    assert operator.ask("dead-letters", "show", "2")["payload_hex"] == "00ff" * 20
    missing = operator.run("dead-letters", "show", "4711")
    assert (missing.code, missing.out) == (1, "")


def test_the_original_bytes_come_out_as_they_went_in(
    sessions: Sessions, operator: Operator
) -> None:
    bury(sessions, bytes(range(256)))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "inventory_service.operations",
            "dead-letters",
            "show",
            "1",
            "--raw",
        ],
        env=os.environ | operator.environment,
        capture_output=True,
        check=True,
    )
    assert done.stdout == bytes(range(256))


def test_a_letter_is_redriven_once_with_who_and_why(sessions: Sessions, operator: Operator) -> None:
    bury(sessions, b"bytes")
    said = operator.do("dead-letters", "redrive", "inventory/1", reason="fixed in 1.2.3")
    assert (said.code, said.out.startswith("✓ inventory/1  redriven")) == (0, True)
    assert sent(sessions) == [(TOPIC, "order-1", b"bytes")]
    shown = operator.ask("dead-letters", "show", "1")
    assert (shown["state"], shown["settled_by"], shown["settled_reason"]) == (
        "redriven", "olga", "fixed in 1.2.3",
    )  # fmt: skip
    for verb in ("redrive", "discard"):
        again = operator.do("dead-letters", verb, "1")
        assert again.code == 0
        assert again.out == "· inventory/1  was redriven already by olga: fixed in 1.2.3\n"
    assert len(sent(sessions)) == 1


def test_a_letter_is_discarded_once_and_kept(sessions: Sessions, operator: Operator) -> None:
    bury(sessions, b"bytes")
    assert operator.do("dead-letters", "discard", "1", reason="a test of ours").code == 0
    again = operator.do("dead-letters", "redrive", "1")
    assert (again.code, "was discarded already by olga: a test of ours" in again.out) == (0, True)
    assert sent(sessions) == []
    assert operator.ask("dead-letters", "show", "1")["payload"] == "bytes"


def test_all_letters_of_a_topic_are_settled_together(
    sessions: Sessions, operator: Operator
) -> None:
    bury(sessions, *(b"%d" % number for number in range(150)))
    bury(sessions, b"other", topic="catalog")
    said = operator.do("dead-letters", "redrive", "--all", "--topic", TOPIC)
    assert (said.code, said.out.count("✓")) == (0, 150)
    assert [payload for _, _, payload in sent(sessions)] == [b"%d" % n for n in range(150)]
    assert (
        "no open dead letters"
        in operator.do("dead-letters", "redrive", "--all", "--topic", TOPIC).out
    )
    assert operator.do("dead-letters", "discard", "--all").out.count("✓") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("redrive",),
        ("redrive", "1", "--all"),
        ("redrive", "1", "--topic", "t"),
        ("redrive", "order/1"),
        ("show", "first"),
        ("discard", "-1"),
    ],
    ids=" ".join,
)
def test_what_names_no_letters_of_ours_is_refused(
    sessions: Sessions, operator: Operator, arguments: tuple[str, ...]
) -> None:
    bury(sessions, b"bytes")
    said = operator.do("dead-letters", *arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err
    assert len(operator.ask("dead-letters", "list")) == 1


def test_of_several_letters_one_that_there_is_not_costs_the_others_nothing(
    sessions: Sessions, operator: Operator
) -> None:
    bury(sessions, b"bytes")
    said = operator.do("dead-letters", "redrive", "1", "4711")
    assert (said.code, "inventory/4711  there is no such letter" in said.out) == (1, True)
    assert len(sent(sessions)) == 1


# ---- the glance


def test_a_glance_shows_outbox_relay_and_letters(
    sessions: Sessions, operator: Operator, instance: Instance
) -> None:
    glance = operator.ask("glance")
    assert (glance["outbox"]["rows"], glance["relay"], glance["dead letters"]) == (0, None, {})
    bury(sessions, b"a", b"b")
    with sessions.begin() as session:
        session.execute(
            text("INSERT INTO outbox (topic, key, payload, created_at) "
                 "SELECT 't', 'k' || n % 2, '', db_now() - interval '1 hour' FROM generate_series(1, 3) n")
        )  # fmt: skip
    glance = operator.ask("glance")
    assert glance["dead letters"] == {TOPIC: 2}
    (topic,) = glance["outbox"]["topics"]
    assert (topic["topic"], topic["rows"], topic["keys"]) == ("t", 3, 2)
    assert topic["age_s"] >= 3600
    readable = operator.run("glance").out
    assert (
        "3 rows, the oldest for 1 h: t 3 of 2 keys, 1 h   → docs/runbook/old-outbox.md" in readable
    )
    assert f"2 from {TOPIC}   → ecom-ops dead-letters list" in readable
    assert "none leads: nothing is published   → docs/runbook/old-outbox.md" in readable


def test_a_glance_shows_which_relay_leads(
    sessions: Sessions, operator: Operator, instance: Instance
) -> None:
    engine = make_relay_engine(_url(sessions), application_name="the-leader")
    relay = Relay(engine, Broker.of(instance).producer)
    try:
        relay.run_once()
        assert relay.is_leader
        assert operator.ask("glance")["relay"]["application"] == "the-leader"
    finally:
        relay.close()
        engine.dispose()
    assert operator.ask("glance")["relay"] is None


def test_lag_is_what_a_group_has_not_committed(instance: Instance) -> None:
    broker = Broker.of(instance)
    topic, unknown, group = broker.topic(), "no.such.topic", broker.group()
    broker.produce(topic, [b"1", b"2", b"3"])

    def lag() -> tuple[dict[str, int], int]:
        found = group_lag(broker.settings, group=group, topics=[topic, unknown], client_id="tests")
        return dict(found.behind), found.members

    assert lag() == ({topic: 3}, 0)
    consumer = kafka.make_consumer(broker.settings, client_id="tests", group=group)
    try:
        consumer.subscribe([topic])
        message = eventually(lambda: consumer.poll(0.2), within_s=30)
        assert message is not None
        consumer.commit(message=message, asynchronous=False)
        assert lag() == ({topic: 2}, 1)
    finally:
        consumer.close()
    eventually(lambda: lag() == ({topic: 2}, 0), within_s=30)


# ---- inventory


@pytest.fixture
def items(sessions: Sessions) -> list[str]:
    content = ItemContent(name="Tea", description=None, unit_price=100, currency="EUR", active=True)
    skus = [f"tea-{number:03}" for number in range(230)]
    with sessions.begin() as session:
        handle_commands(session, [PutItem(sku=sku, content=content) for sku in skus])
        send(session)
        session.execute(text("DELETE FROM outbox"))
    return skus


def catalogue(sessions: Sessions) -> list[tuple[str, int]]:
    found: list[Message] = [decode(payload).data for _, _, payload in sent(sessions)]
    return [(item.sku, item.version) for item in found if isinstance(item, ItemChanged)]


def test_the_catalogue_is_published_again_as_it_is(
    sessions: Sessions, operator: Operator, items: list[str]
) -> None:
    assert operator.ask("republish", "catalogue", "--all") == {"published": 230, "failed": 0}
    assert catalogue(sessions) == [(sku, 1) for sku in items]


def test_named_items_are_published_again_and_unknown_ones_are_said(
    sessions: Sessions, operator: Operator, items: list[str]
) -> None:
    said = operator.run("republish", "catalogue", items[7], "nonsense", items[7])
    assert (said.code, "nonsense: there is no such one" in said.err) == (1, True)
    assert catalogue(sessions) == [(items[7], 1)]
    assert operator.run("republish", "catalogue").code == 2
    assert operator.run("republish", "catalogue", "--all", items[7]).code == 2


def test_held_reservations_are_counted(sessions: Sessions, operator: Operator) -> None:
    with sessions.begin() as session:
        for until in ("db_now() + interval '1 hour'", "db_now() - interval '1 hour'"):
            session.execute(
                text(f"INSERT INTO reservations VALUES (:id, 'held', 1, '[]', {until}, db_now(), db_now())"),
                {"id": new_id()},
            )  # fmt: skip
    glance = operator.ask("glance")
    assert (glance["held"], glance["overdue"]) == (2, 1)


# ---- payment


def test_unknown_and_failed_payments_are_shown_with_what_was_asked(
    payment_sessions: Sessions, provider_url: str, instance: Instance
) -> None:
    desk = PaymentDesk(payment_sessions, provider_url)
    operator = Operator.of(
        payment_operations.main, database_url=desk.database_url, kafka=instance.kafka_bootstrap
    )
    desk.charge("pm_sim_timeoutThenSuccess")
    failed = desk.charge("pm_sim_refundFails")
    desk.charge()
    desk.work()
    desk.cancel(failed)
    desk.work()

    rows = {row["order"]: row for row in operator.ask("payments")}
    # The one that timed out has been asked for again meanwhile, and is captured.
    assert rows.keys() == {str(failed)}
    assert (rows[str(failed)]["state"], rows[str(failed)]["asked"]) == ("refund_failed", "refund")
    assert rows[str(failed)]["next"] == f"→ ecom-ops retry {failed}"
    assert operator.ask("payments", "--state", "unknown") == []
    assert "1 payments are unknown, refund_failed or refunding" in operator.run("payments").out

    unknown = desk.charge("pm_sim_timeoutThenSuccess")
    desk.work()
    (row,) = operator.ask("payments", "--state", "unknown")
    assert (row["order"], row["asked"], row["attempts"]) == (str(unknown), "charge", 1)
    glance = operator.ask("glance")
    assert (glance["unknown"], glance["refund failed"], glance["provider jobs"]) == (1, 1, 1)
