"""The life of a message that could not be handled: buried, published, redriven or put aside."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

import pytest
from ecom_common import dead_letters, kafka
from ecom_common.consumer import Consumer
from ecom_common.dead_letters import DeadLetter
from ecom_common.ids import new_id
from ecom_common.messages import Handler, Received
from ecom_common.relay import Relay, make_relay_engine
from ecom_local.instance import Instance
from sqlalchemy.orm import Session

from tests.support.broker import Broker
from tests.support.chassis import Database, a_message, leave_effects
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def broker(instance: Instance) -> Broker:
    return Broker.of(instance)


A_LETTER = DeadLetter(
    topic="inventory.commands",
    partition=2,
    offset=7,
    key=b"order-1",
    payload=b"\0\xff not json",
    error="MalformedEnvelope: not a JSON object",
    stack="Traceback …",
)


def bury(database: Database, *letters: DeadLetter) -> None:
    with database.sessions.begin() as session:
        dead_letters.bury(session, letters, topic="dead")


def open_letters(database: Database) -> int:
    with database.sessions() as session:
        return dead_letters.count_open(session)


def test_a_letter_is_kept_as_it_came_and_published(database: Database) -> None:
    bury(database, A_LETTER)
    [row] = database.letters()
    assert bytes(row.payload) == A_LETTER.payload
    assert (row.error, row.stack, row.state) == (A_LETTER.error, A_LETTER.stack, "open")
    assert database.outgoing() == [("dead", "order-1", A_LETTER.payload)]
    assert open_letters(database) == 1


def test_the_same_letter_is_buried_once_and_another_at_the_same_place_as_well(
    database: Database,
) -> None:
    # A broker that has lost its data gives the same offsets to other messages.
    other = replace(A_LETTER, payload=b"another")
    bury(database, A_LETTER, A_LETTER, other)
    bury(database, A_LETTER)
    assert [bytes(row.payload) for row in database.letters()] == [A_LETTER.payload, b"another"]
    assert len(database.outgoing()) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"key": None},
        {"key": b"\0\xff"},
        {"payload": b""},
        {"error": "with \0 and \ud800", "stack": "with \0 and \udfff"},
        {"stack": "x" * 1_000_000, "payload": b"y" * 1_000_000},
    ],
    ids=str,
)
def test_there_is_no_letter_that_cannot_be_buried_and_redriven(
    database: Database, changes: dict[str, bytes]
) -> None:
    letter = replace(A_LETTER, **changes)  # type: ignore[arg-type]
    bury(database, letter)
    [row] = database.letters()
    assert bytes(row.payload) == letter.payload
    assert row.key is None if letter.key is None else bytes(row.key) == letter.key
    with database.sessions.begin() as session:
        assert dead_letters.redrive(session, row.id, actor="ops")
    assert [payload for _, _, payload in database.outgoing()] == [letter.payload] * 2


def test_a_redriven_letter_goes_back_to_its_topic_once(database: Database) -> None:
    bury(database, A_LETTER)
    [row] = database.letters()
    outcomes = []
    for _ in range(2):
        with database.sessions.begin() as session:
            outcomes.append(dead_letters.redrive(session, row.id, actor="ops@example"))
    assert outcomes == [True, False]
    assert database.outgoing()[1:] == [("inventory.commands", "order-1", A_LETTER.payload)]
    [row] = database.letters()
    assert (row.state, row.settled_by, row.settled_reason) == ("redriven", "ops@example", None)
    assert row.settled_at is not None
    assert open_letters(database) == 0


def test_a_discarded_letter_stays_as_evidence_and_is_not_redriven(database: Database) -> None:
    bury(database, A_LETTER)
    [row] = database.letters()
    with database.sessions.begin() as session:
        assert dead_letters.discard(session, row.id, actor="ops", reason="a test of ours")
        assert not dead_letters.discard(session, row.id, actor="ops", reason="again")
        assert not dead_letters.redrive(session, row.id, actor="ops")
    [row] = database.letters()
    assert (row.state, row.settled_by, row.settled_reason) == ("discarded", "ops", "a test of ours")
    assert len(database.outgoing()) == 1


def test_a_letter_that_is_not_there_is_neither_redriven_nor_discarded(database: Database) -> None:
    with database.sessions.begin() as session:
        assert not dead_letters.redrive(session, 4711, actor="ops")
        assert not dead_letters.discard(session, 4711, actor="ops", reason="x")


@contextmanager
def a_consumer(
    database: Database, broker: Broker, topic: str, handler: Handler, *, dead: str, group: str
) -> Iterator[Consumer]:
    consumer = Consumer(
        kafka.make_consumer(broker.settings, client_id="tests", group=group),
        database.sessions,
        {"stock.commit.v1": handler},
        topics=[topic],
        dead_letter_topic=dead,
        max_batch=100,
    )
    try:
        yield consumer
    finally:
        consumer.close()


def test_after_the_bug_is_fixed_a_redriven_message_has_its_effect_once(
    database: Database, broker: Broker
) -> None:
    topic, dead, group = broker.topic(), broker.topic("dead"), broker.group()
    guilty = new_id()
    others = [new_id(), new_id()]
    original = a_message(message_id=guilty)
    messages = [a_message(message_id=others[0]), original, a_message(message_id=others[1])]

    def with_a_bug(session: Session, received: Sequence[Received]) -> None:
        if any(r.envelope.id == guilty for r in received):
            raise ZeroDivisionError
        leave_effects(session, received)

    engine = make_relay_engine(database.url, application_name="relay")
    relay = Relay(engine, broker.producer)
    try:
        broker.produce(topic, messages)
        with a_consumer(database, broker, topic, with_a_bug, dead=dead, group=group) as consumer:
            eventually(lambda: consumer.run_once(0.05) * 0 or database.letters())
            eventually(lambda: consumer.run_once(0.05) * 0 or len(effects(database)) == 2)
        eventually(lambda: relay.run_once() * 0 or broker.read(dead))
        assert broker.read(dead) == [("k", original)]

        with a_consumer(database, broker, topic, leave_effects, dead=dead, group=group) as consumer:
            [letter] = database.letters()
            with database.sessions.begin() as session:
                assert dead_letters.redrive(session, letter.id, actor="ops")
            eventually(lambda: relay.run_once() * 0 or len(broker.read(topic)) == 4)
            eventually(lambda: consumer.run_once(0.05) * 0 or len(effects(database)) == 3)
            # Somebody copies the dead-letter topic back by hand as well.
            broker.produce(topic, [original])
            eventually(lambda: consumer.run_once(0.05))
    finally:
        relay.close()
        engine.dispose()
    assert sorted(effects(database)) == sorted([guilty, *others])
    assert broker.read(topic)[3] == ("k", original)
    assert open_letters(database) == 0


def test_a_redriven_message_that_fails_again_is_a_new_letter(
    database: Database, broker: Broker
) -> None:
    topic, group = broker.topic(), broker.group()
    broker.produce(topic, [b"not json"])
    with a_consumer(database, broker, topic, leave_effects, dead="dead", group=group) as consumer:
        eventually(lambda: consumer.run_once(0.05))
        [letter] = database.letters()
        with database.sessions.begin() as session:
            dead_letters.redrive(session, letter.id, actor="ops")
        [_, (_, key, payload)] = database.outgoing()
        broker.produce(topic, [payload], key=key)
        eventually(lambda: consumer.run_once(0.05))
    assert [letter.state for letter in database.letters()] == ["redriven", "open"]


def effects(database: Database) -> list[UUID]:
    return database.rows("SELECT message_id FROM effects ORDER BY id")
