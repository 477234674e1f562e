"""The relay: publishes the outbox, in order for each key, and forgets what the broker has acknowledged.

One relay per service is active. It holds a session advisory lock on a connection of its own and touches
that connection before every round, so a relay that has lost it does not publish. A relay whose process was
stopped keeps its TCP connection and with it the lock: the server ends that session after 10 idle seconds, and
a relay that goes on after such a time hands nothing more over of what it has read.

It reads by id without a cursor, because ids are allocated before commit and a cursor would skip whoever
commits late. It is delivery at least once: a crash between produce and delete sends a message twice.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import psycopg2
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from sqlalchemy import Connection, Engine

from ecom_common import metrics
from ecom_common.crash_points import crash_point
from ecom_common.database import make_engine
from ecom_common.kafka import DELIVERY_TIMEOUT_MS
from ecom_common.logs import describe
from ecom_common.prepared import run_on
from ecom_common.safeguards import is_off

BATCH: Final = 1_000
"""Most messages in one round."""
FLUSH_TIMEOUT_S: Final = 6.0
"""A little more than the producer's own delivery time-out."""
LOCK_RETRY_S: Final = 1.0
PARKED_S: Final = 60.0
"""How long a key whose message the broker refuses is left alone."""
PARKED_TOPIC_S: Final = 15.0
"""How long a topic that is missing or forbidden is left alone; finding out takes a second each time."""
FULL_SCAN_EVERY_S: Final = 1.0
LATE_COMMIT_S: Final = 15.0
"""Rows that commit later than this after their id was drawn are found by the full scan only."""

IDLE_SESSION_TIMEOUT_S: Final = 10.0
HOLDS_S: Final = IDLE_SESSION_TIMEOUT_S - DELIVERY_TIMEOUT_MS / 1000
"""How long after its last sign of life a relay may hand messages to its producer: that may keep them for its
delivery time-out, and the session with the lock has to outlive that."""

# Refusals that do not get better by trying again: the message itself is at fault.
_UNSENDABLE: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError._INVALID_ARG,
    }
)
# … or its whole topic.
_NO_TOPIC: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)

_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('ecom.relay'))"
_DELETE: Final = "DELETE FROM outbox WHERE id = ANY(%s::bigint[])"
# The lower bound spares the scan of index entries that are dead but not yet vacuumed away: 0.7 ms a poll
# instead of 39 ms while somebody holds an old snapshot. What the round before has published is deleted by the same
# statement, which still sees it.
_UNREAD: Final = "SELECT id, topic, key, payload FROM outbox WHERE id > %s AND id NOT IN (SELECT unnest(%s::bigint[]))"
_READ: Final = f"WITH gone AS ({_DELETE}) {_UNREAD} ORDER BY id LIMIT %s"
# What is parked is left out by the query, or enough of it would fill every batch.
_READ_UNPARKED: Final = (
    f"WITH gone AS ({_DELETE}) {_UNREAD} AND topic <> ALL(%s::text[]) "
    "AND (topic, key) NOT IN (SELECT * FROM unnest(%s::text[], %s::text[])) ORDER BY id LIMIT %s"
)

log = logging.getLogger(__name__)


class _Row(NamedTuple):
    id: int
    topic: str
    key: str
    payload: Any  # memoryview

    @property
    def stream(self) -> tuple[str, str]:
        """What must stay in order."""
        return self.topic, self.key


class _Parked(NamedTuple):
    until: float
    row_id: int


def make_relay_engine(
    url: str, *, application_name: str, idle_session_timeout_s: float = IDLE_SESSION_TIMEOUT_S
) -> Engine:
    """The engine of a relay: one connection, which a relay that is stopped for so long loses."""
    return make_engine(
        url,
        application_name=application_name,
        pool_size=1,
        server_options={
            "idle_session_timeout": f"{round(idle_session_timeout_s * 1000)}ms",
            # Losing a delete in a crash of the server costs a duplicate, which every consumer expects.
            "synchronous_commit": "off",
        },
    )


class Relay:
    """Publishes one service's outbox. One thread owns it."""

    def __init__(
        self,
        engine: Engine,
        make_producer: Callable[[], Producer],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._make_producer = make_producer
        self._clock = clock
        self._producer: Producer | None = None
        self._connection: Connection | None = None
        self._next_lock_try = 0.0
        # By (topic, key); by (topic, None) when it is the whole topic that is refused.
        self._parked: dict[tuple[str, str | None], _Parked] = {}
        self._published: list[int] = []
        """Ids of acknowledged rows, until the next round deletes them or this relay gives up its lock."""
        self._low_water = _LowWater(clock)

    @property
    def is_leader(self) -> bool:
        return self._connection is not None

    def run_once(self) -> int:
        """Publish one batch; the number of messages the broker acknowledged.

        Raises the database's error after giving up leadership; the next call starts over. A broker that
        does not answer is no error: the rows stay where they are.
        """
        try:
            connection = self._lead()
            if connection is None:
                return 0
            # Before the read and not after it: the server's idle time begins while its answer is on its way.
            ours_until = self._clock() + HOLDS_S
            rows = self._read(connection)
            sent = self._produce(rows, ours_until) if rows else set()
            done = _in_order(rows, sent)
            if done:
                crash_point("relay.before_delete")
            self._published = [row.id for row in done]
            for topic, count in Counter(row.topic for row in done).items():
                metrics.PUBLISHED.labels(topic).inc(count)
            if len(done) < len(rows):
                gone = {row.id for row in done}
                self._low_water.left(next(row.id for row in rows if row.id not in gone))
            return len(sent)
        except Exception:
            self._step_down()
            raise

    def close(self) -> None:
        """Forget what has been published, and give up the lock, so that another relay takes over at once."""
        try:
            if self._connection is not None and self._published:
                run_on(self._connection, _DELETE, [self._published])
        except psycopg2.Error as error:
            log.info("%d messages will be sent twice: %s", len(self._published), describe(error))
        self._step_down()
        self._drop_producer()

    def _lead(self) -> Connection | None:
        if self._connection is not None:
            return self._connection
        if self._clock() < self._next_lock_try:
            return None
        self._next_lock_try = self._clock() + LOCK_RETRY_S
        connection = self._engine.connect()
        try:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            leads = is_off("relay-lock") or bool(connection.exec_driver_sql(_LOCK).scalar())
        except Exception:
            connection.close()
            raise
        if not leads:
            connection.close()
            return None
        log.info("this relay leads")
        metrics.RELAY_LEADER.set(1)
        self._connection = connection
        # What another relay has left behind is below anything that we remember.
        self._low_water = _LowWater(self._clock)
        return connection

    def _step_down(self) -> None:
        metrics.RELAY_LEADER.set(0)
        self._published = []
        if self._connection is not None:
            # Not back into the pool: the lock belongs to the session.
            connection, self._connection = self._connection, None
            connection.invalidate()
            connection.close()

    def _read(self, connection: Connection) -> list[_Row]:
        # Also the check that this session, and so the lock, is still ours.
        self._unpark()
        parameters: list[object] = [self._published, self._low_water.bound(), self._published]
        if self._parked:
            keys = [(topic, key) for topic, key in self._parked if key is not None]
            parameters += [
                [topic for topic, key in self._parked if key is None],
                [topic for topic, _ in keys],
                [key for _, key in keys],
            ]
        statement = _READ_UNPARKED if self._parked else _READ
        rows = [_Row(*row) for row in run_on(connection, statement, [*parameters, BATCH])]
        self._published = []
        if rows:
            self._low_water.saw(rows[-1].id)
        return rows

    def _unpark(self) -> None:
        now = self._clock()
        for stream, parked in list(self._parked.items()):
            if parked.until <= now:
                del self._parked[stream]
                self._low_water.left(parked.row_id)
        metrics.OUTBOX_PARKED_KEYS.set(len(self._parked))

    def _produce(self, rows: Sequence[_Row], ours_until: float) -> set[int]:
        """Send the rows in order, while nobody else can lead; the ids of those acknowledged."""
        producer = self._producer = self._producer or self._make_producer()
        sent: set[int] = set()
        failures: list[KafkaError] = []
        for number, row in enumerate(rows, start=1):
            if number == len(rows) // 2:
                crash_point("relay.half_sent")
            if row.stream in self._parked or (row.topic, None) in self._parked:
                continue
            if self._clock() >= ours_until:
                # Stopped and continued: others may have published these rows, and newer ones of their keys.
                log.warning(
                    "this round took too long: %d messages are left", len(rows) - number + 1
                )
                break
            try:
                producer.produce(
                    row.topic,
                    bytes(row.payload),
                    row.key,
                    on_delivery=self._on_delivery(row, sent, failures),
                )
            except BufferError:
                break
            except KafkaException as error:
                self._failed(row, error.args[0], failures)
        unsent = producer.flush(FLUSH_TIMEOUT_S)
        if failures or unsent:
            # What the session promised about order holds no longer; a new one reads the outbox again.
            log.warning(
                "the broker took %d of %d messages: %s",
                len(sent),
                len(rows),
                failures[:1] or "no answer",
            )
            self._drop_producer()
        return sent

    def _on_delivery(
        self, row: _Row, sent: set[int], failures: list[KafkaError]
    ) -> Callable[[KafkaError | None, Message], None]:
        def report(error: KafkaError | None, _: Message) -> None:
            if error is None:
                sent.add(row.id)
            else:
                self._failed(row, error, failures)

        return report

    def _failed(self, row: _Row, error: KafkaError, failures: list[KafkaError]) -> None:
        if error.code() in _UNSENDABLE:
            self._park(row.stream, row, PARKED_S, error)
            return
        if error.code() in _NO_TOPIC:
            self._park((row.topic, None), row, PARKED_TOPIC_S, error)
        # A producer also remembers which topics there are not: another reason for a new one.
        failures.append(error)

    def _park(
        self, stream: tuple[str, str | None], row: _Row, seconds: float, error: KafkaError
    ) -> None:
        if stream in self._parked:
            return
        self._parked[stream] = _Parked(self._clock() + seconds, row.id)
        topic, key = stream
        what = f"topic {topic}" if key is None else f"key {key} of {topic}"
        log.error("parked %s: %s", what, error, extra={"outbox_id": row.id})

    def _drop_producer(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            producer.purge()
            producer.flush(0)


def _in_order(rows: Sequence[_Row], sent: set[int]) -> list[_Row]:
    """The acknowledged rows, for each key only up to its first gap."""
    gaps: set[tuple[str, str]] = set()
    done: list[_Row] = []
    for row in rows:
        if row.id not in sent:
            gaps.add(row.stream)
        elif row.stream not in gaps:
            done.append(row)
    return done


class _LowWater:
    """The highest id seen some 15 s ago, as a lower bound for reading; 0 once a second: a full scan.

    Never above a row that was left behind: a later one of the same key would overtake it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self._bound = 0
        self._next_full_scan = 0.0

    def saw(self, row_id: int) -> None:
        now = self._clock()
        if not self._seen or now - self._seen[-1][0] >= FULL_SCAN_EVERY_S:
            self._seen.append((now, row_id))

    def left(self, row_id: int) -> None:
        """The row, and what comes after it, has to be read again."""
        self._bound = min(self._bound, row_id - 1)
        self._seen.clear()

    def bound(self) -> int:
        now = self._clock()
        while self._seen and now - self._seen[0][0] > LATE_COMMIT_S:
            self._bound = max(self._bound, self._seen.popleft()[1])
        if now >= self._next_full_scan:
            self._next_full_scan = now + FULL_SCAN_EVERY_S
            return 0
        return self._bound
