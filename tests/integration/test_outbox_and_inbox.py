"""What a transaction says, what it has heard, and what it has answered: all or nothing of it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event
from uuid import UUID

import pytest
from ecom_common import idempotency, inbox, outbox
from ecom_common.database import Trouble, classify
from ecom_common.idempotency import Key, Stored
from ecom_common.ids import new_id
from ecom_contracts.envelope import decode
from ecom_contracts.messages import StockCommit
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.support.chassis import Database, numbered

BIRTHDAY = datetime(2024, 2, 29, tzinfo=UTC)


def test_a_message_waits_in_the_outbox_only_when_its_transaction_commits(
    database: Database,
) -> None:
    with database.sessions() as session:
        outbox.publish(session, numbered("t", "k", [1]))
        session.rollback()
    assert database.waiting() == []
    database.publish(*numbered("t", "k", [2, 3]))
    assert database.waiting() == ["k:2", "k:3"]


def test_an_outgoing_message_is_an_envelope_that_its_reader_understands() -> None:
    cause = new_id()
    data = StockCommit(order_id=UUID(int=1))
    message = outbox.outgoing(
        data,
        source="order_service",
        now=BIRTHDAY,
        sequence=4,
        correlation_id="c",
        causation_id=cause,
        traceparent="t",
    )
    assert (message.topic, message.key) == ("inventory.commands", str(UUID(int=1)))
    envelope = decode(message.payload)
    assert envelope.data == data
    assert envelope.sequence == 4
    assert (envelope.correlation_id, envelope.causation_id) == ("c", str(cause))
    assert envelope.time == BIRTHDAY
    assert envelope.id.version == 7


def test_the_backlog_tells_how_many_wait_and_how_long(database: Database) -> None:
    with database.sessions() as session:
        assert outbox.backlog(session) == (0, timedelta(0))
    database.publish(*numbered("t", "k", [1, 2]))
    with database.sessions() as session:
        session.execute(text("SET ecom.clock_offset = '1 hour'"))
        rows, age = outbox.backlog(session)
    assert rows == 2
    assert timedelta(hours=1) <= age < timedelta(hours=1, minutes=1)


def test_an_id_is_claimed_once_for_ever(database: Database) -> None:
    first, second = new_id(), new_id()
    with database.sessions.begin() as session:
        assert inbox.claim(session, [second, first, first]) == {first, second}
    with database.sessions.begin() as session:
        assert inbox.claim(session, [first, second]) == set()
        assert inbox.claim(session, []) == set()


def test_a_claim_that_is_rolled_back_was_never_made(database: Database) -> None:
    identifier = new_id()
    with database.sessions() as session:
        assert inbox.claim(session, [identifier]) == {identifier}
        session.rollback()
    with database.sessions.begin() as session:
        assert inbox.claim(session, [identifier]) == {identifier}


def test_two_transactions_that_claim_the_same_ids_in_another_order_take_turns(
    database: Database,
) -> None:
    ids = [new_id() for _ in range(50)]
    claimed_first = Event()

    def claim_and_stay(release: Event) -> set[UUID]:
        with database.sessions.begin() as session:
            mine = inbox.claim(session, ids)
            claimed_first.set()
            assert release.wait(5)
            return mine

    def claim_backwards() -> set[UUID]:
        with database.sessions.begin() as session:
            return inbox.claim(session, ids[::-1])

    release = Event()
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(claim_and_stay, release)
        assert claimed_first.wait(5)
        two = threads.submit(claim_backwards)
        release.set()
        assert one.result(10) == set(ids)
        assert two.result(10) == set()


def test_old_ids_are_forgotten_a_few_at_a_time_and_new_ones_kept(database: Database) -> None:
    with database.sessions.begin() as session:
        inbox.claim(session, [new_id() for _ in range(5)])
    database.as_owner("UPDATE inbox SET received_at = received_at - interval '8 days'")
    recent = new_id()
    with database.sessions.begin() as session:
        inbox.claim(session, [recent])
    pruned = []
    for _ in range(3):
        with database.sessions.begin() as session:
            pruned.append(inbox.prune(session, older_than=timedelta(days=7), most=3))
    assert pruned == [3, 2, 0]
    assert database.rows("SELECT message_id FROM inbox") == [recent]


def test_a_key_finds_what_it_stands_for_and_only_for_its_subject_and_operation(
    database: Database,
) -> None:
    key, stored = Key("alice", "place", "k'1\"%s"), Stored(b"\0\1\2", "order 1", created=False)
    with database.sessions.begin() as session:
        idempotency.store(session, {key: stored})
    with database.sessions() as session:
        others = [key._replace(subject="bob"), key._replace(operation="cancel")]
        assert idempotency.find(session, [key, key, *others]) == {key: stored}
        assert idempotency.find(session, []) == {}


def test_a_twin_of_a_stored_key_is_contention_and_finds_it_at_the_next_try(
    database: Database,
) -> None:
    key, stored = Key("alice", "place", "k"), Stored(b"f", "order 1")
    with database.sessions.begin() as session:
        idempotency.store(session, {key: stored})
    with pytest.raises(IntegrityError) as twin, database.sessions.begin() as session:
        idempotency.store(session, {key: Stored(b"f", "order 2")})
    assert classify(twin.value) is Trouble.CONTENTION
    with database.sessions() as session:
        assert idempotency.find(session, [key])[key].resource_id == "order 1"


def test_old_keys_are_forgotten_a_few_at_a_time(database: Database) -> None:
    with database.sessions.begin() as session:
        keys = {Key("alice", "place", str(n)): Stored(b"f", "x") for n in range(4)}
        idempotency.store(session, keys)
    database.as_owner("UPDATE idempotency_keys SET created_at = created_at - interval '8 days'")
    pruned = []
    for _ in range(2):
        with database.sessions.begin() as session:
            pruned.append(idempotency.prune(session, older_than=timedelta(days=7), most=3))
    assert pruned == [3, 1]
