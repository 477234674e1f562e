"""The operators' command of the order service: what it shows, what it changes, and what it does not twice."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import UUID

import psycopg2
import pytest
from ecom_common.ids import new_id
from ecom_contracts.messages import OrderCancelled, OrderPlaced
from ecom_local.instance import Instance
from ecom_local.ports import Ports
from order_service import operations
from order_service.commands import Intervention, Verb
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.support.databases import Databases
from tests.support.operating import Operator
from tests.support.orders import Store, a_desk, emptied_stores, payment, stock

DEADLINE_S = 900
REASON = "inventory is back"


@pytest.fixture(scope="module")
def empty_store(databases: Databases) -> Iterator[Callable[[], Store]]:
    with emptied_stores(databases) as stores:
        yield stores


@pytest.fixture
def store(empty_store: Callable[[], Store]) -> Store:
    return empty_store()


@pytest.fixture
def operator(store: Store, instance: Instance) -> Operator:
    url = store.sessions.kw["bind"].url.render_as_string(hide_password=False)
    return Operator.of(
        operations.main,
        database_url=url.replace("postgresql+psycopg2", "postgresql"),
        kafka=instance.kafka_bootstrap,
    )


@pytest.fixture
def order_id(store: Store) -> UUID:
    """A fresh order, whose first messages have gone out and were not answered."""
    found = store.place({"tea": 1})
    store.published()
    return found


def flag(store: Store, order_id: UUID) -> None:
    store.desk = a_desk(max_asks=2)
    while store.order(order_id).flagged_at is None:
        store.wait(10)
        assert store.sweep() == 1
        store.published()
    # The operator's clock is the database's own.
    store.offset_s = 0


def fail_the_refund(store: Store, order_id: UUID) -> None:
    """Confirmed, cancelled by its customer, restocked; and the provider does not give the money back."""
    store.confirm(order_id)
    store.accepted(order_id)
    store.learn(payment(order_id, "refunding", 3), payment(order_id, "refund_failed", 4))
    store.learn(stock(order_id, "restocked", 3))
    store.published()


def last_entry(store: Store, order_id: UUID) -> tuple[str, str, str | None]:
    entry = store.history(order_id)[-1]
    return entry.kind, entry.actor, entry.note


# ---- stuck, show


def test_orders_on_their_way_are_not_stuck(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    assert operator.ask("stuck") == []
    assert operator.run("stuck").out == "every order gets on\n"


def test_a_flagged_order_is_shown_with_why_and_what_to_do(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    flag(store, order_id)
    (row,) = operator.ask("stuck")
    assert (row["order"], row["trouble"]) == (str(order_id), "flagged")
    assert row["waits_for"] == ["stock.reserve.v1"]
    assert "nobody answered stock.reserve.v1" in row["why"]
    assert row["next"] == f"→ ecom-ops lift {order_id}, or cancel {order_id}"
    assert "1 orders do not get on" in operator.run("stuck").out


def test_a_failed_refund_is_shown_as_what_it_is(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    fail_the_refund(store, order_id)
    (row,) = operator.ask("stuck")
    assert (row["trouble"], row["payment"]) == ("refund_failed", "refund_failed")
    assert row["next"] == f"→ ecom-ops retry {order_id}, or resolve {order_id}"


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        ("deadline_at = db_now() - interval '1 hour', updated_at = db_now() - interval '1 hour'", "overdue"),
        ("asks = 4", "no_answer"),
    ],
)  # fmt: skip
def test_late_orders_are_shown_before_they_are_flagged(
    store: Store, operator: Operator, order_id: UUID, change: str, trouble: str
) -> None:
    with store.sessions.begin() as session:
        session.execute(text(f"UPDATE orders SET {change}"))
    (row,) = operator.ask("stuck")
    assert (row["order"], row["trouble"]) == (str(order_id), trouble)


def test_an_order_whose_messages_are_not_sent_is_shown(store: Store, operator: Operator) -> None:
    order_id = store.place({"tea": 1})
    assert operator.ask("stuck") == []
    with store.sessions.begin() as session:
        # The service's role may not change the outbox, so an old row is put in.
        session.execute(
            text("INSERT INTO outbox (topic, key, payload, created_at) "
                 "VALUES ('t', :key, '', db_now() - interval '1 hour')"),
            {"key": str(order_id)},
        )  # fmt: skip
        session.execute(text("UPDATE orders SET updated_at = db_now() - interval '1 hour'"))
    (row,) = operator.ask("stuck")
    assert (row["trouble"], row["why"]) == ("unsent", "3 of its messages are not sent")


def test_one_order_is_shown_whole(store: Store, operator: Operator, order_id: UUID) -> None:
    flag(store, order_id)
    shown = operator.ask("show", str(order_id))
    assert (shown["status"], shown["waits for"]) == ("pending", ["stock.reserve.v1"])
    assert [entry["kind"] for entry in shown["timeline"]] == ["placed", "flagged"]
    assert shown["matter"]["trouble"] == "flagged"
    text_for_people = operator.run("show", str(order_id)).out
    assert "what is the matter: nobody answered stock.reserve.v1" in text_for_people
    assert "Nobody answers; an operator is needed." in text_for_people


def test_an_order_that_there_is_not_is_refused(operator: Operator) -> None:
    nobody = str(new_id())
    assert (operator.run("show", nobody).code, operator.do("retry", nobody).code) == (1, 1)
    assert "there is no such order" in operator.do("lift", nobody).out


# ---- retry, lift, cancel


def test_retry_asks_again_for_what_is_outstanding_and_says_who_and_why(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    said = operator.do("retry", str(order_id), reason=REASON)
    assert (said.code, said.out) == (0, f"✓ {order_id}  asked again: stock.reserve.v1\n")
    assert store.said() == ["stock.reserve.v1"]
    assert last_entry(store, order_id) == ("asked_again", "olga", REASON)
    assert store.order(order_id).asks == 0


def test_retry_carries_on_with_a_flagged_order(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    flag(store, order_id)
    assert operator.do("retry", str(order_id)).code == 0
    assert store.order(order_id).flagged_at is None
    assert store.order(order_id).due_at is not None
    store.confirm(order_id)


def test_what_is_not_sent_yet_is_not_asked_again(store: Store, operator: Operator) -> None:
    order_id = store.place({"tea": 1})
    said = operator.do("retry", str(order_id))
    assert said.code == 0
    assert "2 of its messages are not sent yet" in said.out
    assert store.said() == ["order.placed.v1", "stock.reserve.v1"]
    assert store.changes(order_id) == ["placed"]


def test_there_is_nothing_to_retry_of_a_final_order(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    store.confirm(order_id)
    store.published()
    said = operator.do("retry", str(order_id))
    assert (said.code, said.out) == (0, f"· {order_id}  nothing is outstanding: it is confirmed\n")
    assert store.said() == []


def test_a_flag_is_lifted_once(store: Store, operator: Operator, order_id: UUID) -> None:
    flag(store, order_id)
    assert "asked again" in operator.do("lift", str(order_id), reason=REASON).out
    assert last_entry(store, order_id) == ("flag_lifted", "olga", REASON)
    assert store.said() == ["stock.reserve.v1"]
    again = operator.do("lift", str(order_id))
    assert (again.code, store.said()) == (0, [])
    assert "not flagged (any more)" in again.out


def test_all_flagged_orders_are_lifted_together_and_no_others(
    store: Store, operator: Operator
) -> None:
    flagged = [store.place({"tea": 1}) for _ in range(3)]
    store.published()
    store.desk = a_desk(max_asks=2)
    for _ in range(4):
        store.wait(10)
        store.sweep()
        store.published()
    store.offset_s = 0
    other = store.place({"tea": 1})
    store.published()
    said = operator.do("lift", "--all")
    assert (said.code, said.out.count("asked again")) == (0, 3)
    assert {store.order(i).flagged_at for i in flagged} == {None}
    assert store.changes(other) == ["placed"]
    assert operator.do("lift", "--all").out == "no order wants that\n"


def test_an_operator_cancels_once_with_a_reason(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    store.confirm(order_id)
    store.published()
    said = operator.do("cancel", str(order_id), reason="sold by mistake")
    assert (said.code, said.out) == (0, f"✓ {order_id}  it is cancelling\n")
    assert last_entry(store, order_id) == ("cancel_requested", "olga", "sold by mistake")
    assert store.said() == ["payment.cancel.v1", "stock.release.v1"]
    again = operator.do("cancel", str(order_id))
    assert (again.code, store.said()) == (0, [])
    assert "already, because of: cancelled_by_operator" in again.out
    store.learn(stock(order_id, "restocked", 3), payment(order_id, "refunded", 4))
    assert store.order(order_id).status == "cancelled"


def test_a_rejected_order_is_not_cancelled(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    store.learn(stock(order_id, "refused", 1))
    said = operator.do("cancel", str(order_id))
    assert (said.code, "was rejected" in said.out) == (1, True)


def test_of_several_one_that_is_refused_costs_the_others_nothing(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    said = operator.run(
        "retry", str(new_id()), str(order_id), "--json", "--actor", "olga", "--reason", REASON
    )
    assert said.code == 1
    assert [one["changed"] for one in said.document] == [False, True]
    assert store.said() == ["stock.reserve.v1"]


def test_of_several_one_that_fails_costs_the_others_nothing(
    store: Store, operator: Operator, order_id: UUID, instance: Instance
) -> None:
    guilty = store.place({"tea": 1})
    store.published()
    database = store.sessions.kw["bind"].url.database
    with closing(psycopg2.connect(instance.postgres_url(database, "postgres"))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(
            "CREATE FUNCTION bug() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a bug'; END $$; "
            "CREATE TRIGGER bug BEFORE UPDATE ON orders FOR EACH ROW "
            f"WHEN (OLD.id = '{guilty}') EXECUTE FUNCTION bug()"
        )
        try:
            said = operator.do("retry", str(guilty), str(order_id))
        finally:
            cursor.execute("DROP FUNCTION bug() CASCADE")
    assert said.code == 1
    assert f"✗ {guilty}  failed: " in said.out
    assert f"✓ {order_id}  asked again" in said.out
    assert store.changes(guilty) == ["placed"]


# ---- resolve


def test_a_failed_refund_that_was_made_elsewhere_is_resolved(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    fail_the_refund(store, order_id)
    said = operator.do("resolve", str(order_id), reason="bank transfer 4711")
    assert (said.code, "resolved" in said.out) == (0, True)
    order = store.order(order_id)
    assert (order.status, order.payment) == (
        "cancelling",
        "refund_failed",
    )  # it is not called refunded
    assert order.resolved_at is not None
    assert (order.flagged_at, order.due_at) == (None, None)
    assert last_entry(store, order_id) == ("resolved", "olga", "bank transfer 4711")
    assert store.said() == []
    assert operator.ask("stuck") == []
    assert operator.ask("show", str(order_id))["matter"]["trouble"] == "resolved"
    again = operator.do("resolve", str(order_id))
    assert (again.code, "resolved already" in again.out) == (0, True)


def test_a_refund_that_was_asked_for_again_is_not_settled_elsewhere_before_it_has_failed_again(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    fail_the_refund(store, order_id)
    operator.do("retry", str(order_id))
    said = operator.do("resolve", str(order_id))
    assert (said.code, "its refund was asked for again" in said.out) == (1, True)
    store.published()
    flag(store, order_id)  # nobody answers, so it may still be made
    assert operator.do("resolve", str(order_id)).code == 1
    store.learn(payment(order_id, "refunding", 5), payment(order_id, "refund_failed", 6))
    assert operator.do("resolve", str(order_id)).code == 0


@pytest.mark.parametrize("command", ["retry", "lift", "cancel"])
def test_what_is_resolved_is_never_asked_for_again(
    store: Store, operator: Operator, order_id: UUID, command: str
) -> None:
    fail_the_refund(store, order_id)
    operator.do("resolve", str(order_id))
    said = operator.do(command, str(order_id))
    assert (said.code, "could give it back twice" in said.out) == (1, True)
    store.accepted(order_id)  # nor does its customer, or time, move anything
    store.accepted(order_id, customer=None)
    store.wait(DEADLINE_S * 2)
    assert (store.sweep(), store.said()) == (0, [])


def test_a_customer_may_still_call_off_what_was_failing_before_it_was_resolved(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    store.learn(stock(order_id, "held", 1), payment(order_id, "captured", 2))
    store.learn(stock(order_id, "released", 2), payment(order_id, "refund_failed", 4))
    operator.do("resolve", str(order_id))
    order = store.accepted(order_id)
    assert (order.status, order.resolved_at is not None, order.due_at) == ("cancelling", True, None)


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda store, order_id: None, "still to be fulfilled; cancel it first"),
        (lambda store, order_id: store.confirm(order_id), "nothing to resolve: it is confirmed"),
        (lambda store, order_id: store.accepted(order_id), "its payment is none"),
        (lambda store, order_id: (store.confirm(order_id), store.accepted(order_id)), "its payment is captured"),
        (lambda store, order_id: (store.confirm(order_id), store.accepted(order_id),
                                  store.learn(payment(order_id, "refund_failed", 4))), "its stock is committed"),
    ],
)  # fmt: skip
def test_nothing_else_is_resolved(
    store: Store,
    operator: Operator,
    order_id: UUID,
    prepare: Callable[[Store, UUID], object],
    why: str,
) -> None:
    prepare(store, order_id)
    said = operator.do("resolve", str(order_id))
    assert (said.code, why in said.out) == (1, True), said
    assert store.order(order_id).resolved_at is None


def test_the_database_itself_forbids_to_resolve_what_holds_or_moves_something(
    store: Store, order_id: UUID
) -> None:
    with (
        pytest.raises(IntegrityError, match="ck_orders_resolved"),
        store.sessions.begin() as session,
    ):
        session.execute(text("UPDATE orders SET resolved_at = db_now()"))


def test_when_money_moves_after_all_somebody_has_to_look_again(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    fail_the_refund(store, order_id)
    operator.do("resolve", str(order_id))
    store.learn(payment(order_id, "refunding", 5))
    assert store.order(order_id).resolved_at is None
    store.learn(payment(order_id, "refunded", 6))
    assert store.order(order_id).status == "cancelled"


def test_resolved_orders_are_neither_under_way_nor_flagged_nor_stuck(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    fail_the_refund(store, order_id)
    operator.do("resolve", str(order_id))
    with store.sessions.begin() as session:
        session.execute(text("UPDATE orders SET deadline_at = db_now() - interval '1 day', "
                             "updated_at = db_now() - interval '1 day'"))  # fmt: skip
    glance = operator.ask("glance")
    assert [glance[name] for name in ("orders", "flagged", "overdue", "resolved")] == [0, 0, 0, 1]


# ---- republish


def test_what_became_of_an_order_is_told_again_as_it_was_told(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    store.confirm(order_id)
    store.accepted(order_id)
    store.learn(stock(order_id, "restocked", 3), payment(order_id, "refunding", 3))
    store.learn(payment(order_id, "refunded", 4))
    entries = {entry.version: entry for entry in store.history(order_id)}
    told = [e for e in store.published() if e.type.startswith("order.")]

    assert operator.run("republish", "orders", str(order_id)).code == 0

    again = store.published()
    assert [e.type for e in again] == [
        "order.placed.v1",
        "order.confirmed.v1",
        "order.cancelled.v1",
    ]
    assert [(e.type, e.sequence, e.data) for e in told] == [
        (e.type, e.sequence, e.data) for e in again[1:]
    ]  # the fixture has taken the first
    assert not {e.id for e in told} & {e.id for e in again}
    assert [e.time for e in again] == [entries[e.sequence].at for e in again]
    assert isinstance(again[0].data, OrderPlaced)
    assert isinstance(again[2].data, OrderCancelled)
    assert again[2].data.reason == "cancelled_by_customer"


def test_orders_of_a_period_are_told_again_and_no_others(store: Store, operator: Operator) -> None:
    ids = [store.place({"tea": 1}) for _ in range(3)]
    store.published()
    with store.sessions.begin() as session:
        for number, order_id in enumerate(ids):
            session.execute(
                text("UPDATE orders SET created_at = :at WHERE id = :id"),
                {"at": f"2026-01-0{number + 1}T12:00:00Z", "id": order_id},
            )
    period = ("--since", "2026-01-02T00:00:00Z", "--until", "2026-01-03T00:00:00Z")
    assert operator.ask("republish", "orders", *period) == {"published": 1, "failed": 0}
    assert [e.subject for e in store.published()] == [str(ids[1])]
    assert operator.ask("republish", "orders", "--since", "2026-01-01T00:00:00Z")["published"] == 3


def test_an_order_that_there_is_not_does_not_keep_the_others_from_being_told(
    store: Store, operator: Operator, order_id: UUID
) -> None:
    said = operator.run("republish", "orders", str(new_id()), str(order_id))
    assert said.code == 1
    assert "there is no such one" in said.err
    assert store.said() == ["order.placed.v1"]


# ---- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["retry"],
        ["retry", "--all"],
        ["retry", "no-uuid", "--actor", "olga", "--reason", "x"],
        ["cancel", "--actor", "olga", "--reason", "x"],
        ["lift", "--all", "--actor", "olga", "--reason", " "],
        ["lift", "--all", "--actor", "olga", "--reason", "paid with 4242 4242 4242 4242"],
        ["lift", "--all", "--reason", "nobody is logged in here"],
        ["republish", "orders"],
        ["republish", "orders", "--since", "yesterday"],
        ["republish", "orders", "--since", "2026-01-01"],
        ["stuck", "--limit", "0"],
    ],
    ids=" ".join,
)
def test_what_is_no_command_is_refused(operator: Operator, arguments: list[str]) -> None:
    said = operator.run(*arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err
    assert "4242" not in said.err


def test_the_actor_is_who_is_logged_in(store: Store, operator: Operator, order_id: UUID) -> None:
    said = operator.run("retry", str(order_id), "--reason", REASON, USER="root", SUDO_USER="olga")
    assert said.code == 0
    assert last_entry(store, order_id)[1] == "olga"


def test_every_command_explains_itself(operator: Operator) -> None:
    for command in operations.COMMANDS:
        said = operator.run(*command.name.split(), "--help")
        assert (said.code, "exit codes:" in said.out) == (0, True), command.name
        assert command.needs_reason == ("--reason" in said.out)


def test_a_database_that_does_not_answer_is_said_in_a_line(operator: Operator) -> None:
    nowhere = f"postgresql://u:hidden@127.0.0.1:{Ports.free().postgres}/orderdb"
    said = operator.run("stuck", DATABASE_URL=nowhere)
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert "refused" in said.err
    assert "hidden" not in said.err


def test_a_missing_setting_is_named(operator: Operator) -> None:
    said = operator.run("stuck", HTTP_PORT="0")
    assert (said.code, "HTTP_PORT" in said.err) == (2, True)


def test_a_broker_that_does_not_answer_leaves_the_rest_to_be_seen(operator: Operator) -> None:
    said = operator.run(
        "glance", "--json", KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{Ports.free().kafka}"
    )
    assert said.code == 2
    assert "the broker does not answer" in said.err
    assert json.loads(said.out)["outbox"]["rows"] == 0


def test_both_racing_operators_are_told_the_truth(store: Store, order_id: UUID) -> None:
    flag(store, order_id)
    wish = Intervention(Verb.LIFT, order_id, "olga", REASON)
    with store.sessions.begin() as session:
        first, second = store.desk.intervene(session, [wish, wish])
    assert (first.changed, second.changed) == (True, False)
    assert store.changes(order_id) == ["placed", "flagged", "flag_lifted"]
