"""The relay: publishes the outbox, in order for each key, and forgets what the broker has acknowledged.

One relay per service is active. It holds a session advisory lock on a connection of its own and touches
that connection before every round, so a relay that has lost it does not publish. A relay whose process was
stopped keeps its TCP connection and with it the lock: the server ends that session after 10 idle seconds.

It reads by id without a cursor, because ids are allocated before commit and a cursor would skip whoever
commits late. It is delivery at least once: a crash between produce and delete sends a message twice.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from sqlalchemy import Connection, Engine, text

from ecom_common import metrics

BATCH: Final = 1_000
"""Most messages in one round."""
FLUSH_TIMEOUT_S: Final = 6.0
"""A little more than the producer's own delivery time-out."""
LOCK_RETRY_S: Final = 1.0
PARKED_S: Final = 60.0
"""How long a key whose message the broker refuses is left alone."""
FULL_SCAN_EVERY_S: Final = 1.0
LATE_COMMIT_S: Final = 15.0
"""Rows that commit later than this after their id was drawn are found by the full scan only."""

SERVER_OPTIONS: Final = {
    # A stopped relay loses its session, and with it the lock.
    "idle_session_timeout": "10s",
    # Losing a delete in a crash of the server costs a duplicate, which every consumer expects.
    "synchronous_commit": "off",
}

# Refusals that do not get better by trying again: the message itself is at fault.
_UNSENDABLE: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError._INVALID_ARG,
    }
)

_LOCK = text("SELECT pg_try_advisory_lock(hashtext('ecom.relay'))")
# The lower bound spares the scan of index entries that are dead but not yet vacuumed away: 0.7 ms a poll
# instead of 39 ms while somebody holds an old snapshot.
_READ = text("SELECT id, topic, key, payload FROM outbox WHERE id > :above ORDER BY id LIMIT :most")
_DELETE = text("DELETE FROM outbox WHERE id = ANY(:ids)")

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
        self._parked: dict[tuple[str, str], float] = {}
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
            rows = self._read(connection)
            sent = self._produce(rows) if rows else set()
            if sent:
                self._delete(connection, rows, sent)
            return len(sent)
        except Exception:
            self._step_down()
            raise

    def close(self) -> None:
        """Give up the lock, so that another relay takes over at once."""
        self._step_down()
        self._drop_producer()

    def _lead(self) -> Connection | None:
        if self._connection is not None:
            return self._connection
        if self._clock() < self._next_lock_try:
            return None
        self._next_lock_try = self._clock() + LOCK_RETRY_S
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if not connection.scalar(_LOCK):
            connection.close()
            return None
        log.info("this relay leads")
        metrics.RELAY_LEADER.set(1)
        self._connection = connection
        return connection

    def _step_down(self) -> None:
        metrics.RELAY_LEADER.set(0)
        if self._connection is not None:
            # Not back into the pool: the lock belongs to the session.
            connection, self._connection = self._connection, None
            connection.invalidate()
            connection.close()

    def _read(self, connection: Connection) -> list[_Row]:
        # Also the check that this session, and so the lock, is still ours.
        rows = connection.execute(_READ, {"above": self._low_water.bound(), "most": BATCH})
        found = [_Row(*row) for row in rows]
        if found:
            self._low_water.saw(found[-1].id)
        now = self._clock()
        self._parked = {stream: until for stream, until in self._parked.items() if until > now}
        metrics.OUTBOX_PARKED_KEYS.set(len(self._parked))
        return [row for row in found if row.stream not in self._parked]

    def _produce(self, rows: Sequence[_Row]) -> set[int]:
        """Send the rows in order; the ids of those acknowledged."""
        producer = self._producer = self._producer or self._make_producer()
        sent: set[int] = set()
        failures: list[KafkaError] = []
        for row in rows:
            if row.stream in self._parked:
                continue
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
            log.error(
                "parked key %s of %s: %s", row.key, row.topic, error, extra={"outbox_id": row.id}
            )
            self._parked[row.stream] = self._clock() + PARKED_S
        else:
            failures.append(error)

    def _delete(self, connection: Connection, rows: Sequence[_Row], sent: set[int]) -> None:
        """Forget the acknowledged rows, for each key only up to its first gap."""
        gaps: set[tuple[str, str]] = set()
        done: list[int] = []
        for row in rows:
            if row.id not in sent:
                gaps.add(row.stream)
            elif row.stream not in gaps:
                done.append(row.id)
                metrics.PUBLISHED.labels(row.topic).inc()
        connection.execute(_DELETE, {"ids": done})

    def _drop_producer(self) -> None:
        if self._producer is not None:
            producer, self._producer = self._producer, None
            producer.purge()
            producer.flush(0)


class _LowWater:
    """The highest id seen some 15 s ago, as a lower bound for reading; 0 once a second: a full scan."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self._bound = 0
        self._next_full_scan = 0.0

    def saw(self, row_id: int) -> None:
        now = self._clock()
        if not self._seen or now - self._seen[-1][0] >= FULL_SCAN_EVERY_S:
            self._seen.append((now, row_id))

    def bound(self) -> int:
        now = self._clock()
        while self._seen and now - self._seen[0][0] > LATE_COMMIT_S:
            self._bound = max(self._bound, self._seen.popleft()[1])
        if now >= self._next_full_scan:
            self._next_full_scan = now + FULL_SCAN_EVERY_S
            return 0
        return self._bound
