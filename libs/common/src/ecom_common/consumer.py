"""The consumer: batches of messages, each applied in one transaction, each message at most once.

Order of things: decode → one transaction with the inbox and the handlers' effects → commit the offsets, now and
then. A crash anywhere repeats messages, and the inbox drops them. Offsets are only a hint where to start.

Poison (cannot be decoded, or its handler fails three times) goes to the dead letters alone, and nothing
waits behind it. A database that is down is not poison: the batch is held, the partitions are paused, and
the consumer keeps polling so that the group keeps it. A client that has failed for good, as when the broker
has lost its groups, is replaced: it would go on polling and never hear anything again.
"""

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from ecom_contracts.envelope import UnknownType, decode
from sqlalchemy.orm import Session

from ecom_common import dead_letters, inbox, metrics
from ecom_common.batch import Failed, apply_batch
from ecom_common.crash_points import crash_point
from ecom_common.database import UNIQUE_VIOLATION, Sessions, Trouble, backoff_s, classify, sql_state
from ecom_common.dead_letters import DeadLetter
from ecom_common.errors import DependencyDown
from ecom_common.logs import describe
from ecom_common.messages import Handler, Handlers, Received

OFFSETS_EVERY_S: Final = 1.0
"""Offsets are only a hint, and committing them makes the broker write as a message does: after each batch that was
a tenth of its CPU at 50 orders a second. What a crash repeats, the inbox drops."""
POISON_TRIES: Final = 3
"""Failures of a message on its own, by no fault of the database, before it is a dead letter."""

log = logging.getLogger(__name__)


class Consumer:
    """Feeds the messages of some topics to handlers. One thread owns it."""

    def __init__(
        self,
        kafka: KafkaConsumer,
        sessions: Sessions,
        handlers: Handlers,
        *,
        topics: Sequence[str],
        dead_letter_topic: str,
        max_batch: int,
        renew: Callable[[], KafkaConsumer] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`renew` makes another client in place of `kafka` when that one has failed for good."""
        self._kafka = kafka
        self._topics = list(topics)
        self._renew = renew
        self._sessions = sessions
        self._handlers = handlers
        self._dead_letter_topic = dead_letter_topic
        self._max_batch = max_batch
        self._clock = clock
        self._sleep = sleep
        self._held: list[Message] = []
        self._holds = 0
        self._retry_at = 0.0
        self._ends: dict[tuple[str, int], int] = {}
        """By topic and partition: where the next message would be, as far as that is not committed."""
        self._offsets_due_at = 0.0
        kafka.subscribe(self._topics, on_revoke=self._on_revoke)

    def run_once(self, timeout_s: float) -> int:
        """Handle what has queued up, waiting at most `timeout_s` for the first; how many were handled."""
        try:
            messages = self._next_batch(timeout_s)
        except _FailedForGood as error:
            self._replace_client(error)
            return 0
        if not messages:
            self._commit_when_due()
            return 0
        try:
            self._handle(messages)
        except DependencyDown as error:
            self._hold(messages, error)
            return 0
        except Exception as error:
            # A bug of ours. The batch is not handled, so nothing may be committed past it.
            self._hold(messages, error)
            raise
        crash_point("consumer.before_offsets")
        self._release()
        self._note(messages)
        self._commit_when_due()
        return len(messages)

    def close(self) -> None:
        """Leave the group, so that its partitions move at once."""
        self._commit()
        self._kafka.close()

    def observe_lag(self) -> None:
        """Export how far behind the end each assigned partition is, from the client's own cache."""
        metrics.CONSUMER_LAG.clear()  # of partitions that are somebody else's by now
        for at in self._kafka.position(self._kafka.assignment()):
            watermarks = self._kafka.get_watermark_offsets(at, cached=True)
            if watermarks and at.offset >= 0:
                lag = max(0, watermarks[1] - at.offset)
                metrics.CONSUMER_LAG.labels(at.topic, str(at.partition)).set(lag)

    def _next_batch(self, timeout_s: float) -> list[Message]:
        if not self._held:
            return self._fetch(timeout_s)
        # Polling keeps us in the group; a partition that was assigned meanwhile may hand us something.
        if (message := self._kafka.poll(timeout_s)) is not None and _is_message(message):
            self._held.append(message)
            self._kafka.pause(self._kafka.assignment())
        return self._held if self._clock() >= self._retry_at else []

    def _fetch(self, timeout_s: float) -> list[Message]:
        # consume(n, timeout) would wait the whole time-out to fill the batch.
        first = self._kafka.poll(timeout_s)
        if first is None:
            return []
        rest = self._kafka.consume(self._max_batch - 1, 0) if self._max_batch > 1 else []
        return [message for message in (first, *rest) if _is_message(message)]

    def _replace_client(self, error: "_FailedForGood") -> None:
        if self._renew is None:
            raise error
        log.error("the consumer is replaced: %s", error)
        self._kafka.close()
        self._kafka = self._renew()
        # What was held is not committed: the new client gets it again.
        self._held = []
        self._holds = 0
        self._ends = {}
        self._kafka.subscribe(self._topics, on_revoke=self._on_revoke)

    def _hold(self, messages: list[Message], error: Exception) -> None:
        if not self._held:
            log.warning("holding %d messages: %s", len(messages), describe(error))
            self._kafka.pause(self._kafka.assignment())
        self._held = messages
        self._retry_at = self._clock() + backoff_s(self._holds, first_s=0.1, most_s=5.0)
        self._holds += 1

    def _release(self) -> None:
        if self._held:
            log.info("%d held messages are handled", len(self._held))
            self._held = []
            self._holds = 0
            self._kafka.resume(self._kafka.assignment())

    def _handle(self, messages: Sequence[Message]) -> None:
        readable, letters = self._decode(messages)
        if readable:
            outcomes = self._apply_batch([received for received, _ in readable])
            for (received, message), outcome in zip(readable, outcomes, strict=True):
                settled = self._retry_alone(received, outcome)
                if isinstance(settled, Failed):
                    letters.append(_letter(message, settled.error))
                else:
                    _count(message, settled)
        if letters:
            self._bury(letters)

    def _decode(
        self, messages: Sequence[Message]
    ) -> tuple[list[tuple[Received, Message]], list[DeadLetter]]:
        readable: list[tuple[Received, Message]] = []
        letters: list[DeadLetter] = []
        for message in messages:
            payload = message.value()
            if payload is None:
                # A deleted key of a compacted topic, not poison.
                _count(message, "tombstone")
                continue
            try:
                received = _received(message, payload)
            except UnknownType:
                _count(message, "unknown_type")
            except Exception as error:
                # A ContractError, or bytes that nobody has thought of.
                letters.append(_letter(message, error))
            else:
                if received.envelope.type in self._handlers:
                    readable.append((received, message))
                else:
                    _count(message, "unknown_type")
        return readable, letters

    def _apply_batch(self, received: Sequence[Received]) -> list[str | Failed]:
        return apply_batch(
            self._sessions, self._apply, received, name="messages", sleep=self._sleep
        )

    def _apply(self, session: Session, received: Sequence[Received]) -> list[str]:
        """The unit of work: claim the ids in the inbox, hand what is new to its handlers, each its own in order.

        Returns for each what became of it, `handled` or `duplicate`.
        """
        fresh = inbox.claim(session, [r.envelope.id for r in received])
        outcomes = []
        todo = []
        for message in received:
            if message.envelope.id in fresh:
                fresh.discard(message.envelope.id)
                todo.append(message)
                outcomes.append("handled")
            else:
                outcomes.append("duplicate")
        for handler, group in self._by_handler(todo):
            handler(session, group)
        return outcomes

    def _by_handler(self, messages: Sequence[Received]) -> list[tuple[Handler, list[Received]]]:
        """Each handler once, in the order of the registry: so no two batches lock in opposite orders."""
        groups: dict[Handler, list[Received]] = {h: [] for h in self._handlers.values()}
        for message in messages:
            groups[self._handlers[message.envelope.type]].append(message)
        return [(handler, group) for handler, group in groups.items() if group]

    def _retry_alone(self, received: Received, outcome: str | Failed) -> str | Failed:
        """Try a message that failed on its own some more; still Failed when it is poison."""
        failures = 0
        while isinstance(outcome, Failed):
            if not _is_its_own_fault(outcome.error):
                raise DependencyDown(f"contention: {describe(outcome.error)}") from outcome.error
            failures += 1
            if failures == POISON_TRIES:
                break
            (outcome,) = self._apply_batch([received])
        return outcome

    def _bury(self, letters: Sequence[DeadLetter]) -> None:
        def bury(session: Session, batch: Sequence[DeadLetter]) -> list[None]:
            dead_letters.bury(session, batch, topic=self._dead_letter_topic)
            return [None] * len(batch)

        outcomes = apply_batch(
            self._sessions, bury, letters, name="dead_letters", sleep=self._sleep
        )
        for letter, outcome in zip(letters, outcomes, strict=True):
            if isinstance(outcome, Failed):
                # Never lost: the offset is not committed until the letter is recorded.
                raise DependencyDown("a dead letter could not be recorded") from outcome.error
            metrics.RECEIVED.labels(letter.topic, "dead_letter").inc()
            log.error(
                "dead letter: %s",
                letter.error,
                extra={
                    "topic": letter.topic,
                    "partition": letter.partition,
                    "offset": letter.offset,
                },
            )

    def _note(self, messages: Sequence[Message]) -> None:
        for message in messages:
            topic, partition, offset = _place(message)
            self._ends[topic, partition] = offset + 1

    def _commit_when_due(self) -> None:
        if self._ends and self._clock() >= self._offsets_due_at:
            self._offsets_due_at = self._clock() + OFFSETS_EVERY_S
            self._commit()

    def _commit(self) -> None:
        offsets = [TopicPartition(*place, end) for place, end in self._ends.items()]
        self._ends = {}
        if not offsets:
            return
        try:
            self._kafka.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            # The partition may have moved to another worker; it will drop the repeats by its inbox.
            log.info("offsets not committed: %s", error)

    def _on_revoke(self, kafka: KafkaConsumer, partitions: list[TopicPartition]) -> None:
        # The client remembers a pause beyond the assignment: a partition that moved away while a batch was held
        # would come back deaf.
        kafka.resume(partitions)
        self._commit()


def _is_its_own_fault(error: Exception) -> bool:
    # A unique violation that outlives every try of a message on its own is no twin in another transaction.
    return classify(error) is Trouble.UNEXPECTED or sql_state(error) == UNIQUE_VIOLATION


class _FailedForGood(Exception):
    """The client says that it will never work again."""


def _is_message(message: Message) -> bool:
    error = message.error()
    if error is None:
        return True
    if error.fatal() or error.code() == KafkaError._FATAL:  # the flag is not always set
        raise _FailedForGood(str(error))
    if error.code() != KafkaError._PARTITION_EOF:
        log.warning("the consumer reports: %s", error)
    return False


def _place(message: Message) -> tuple[str, int, int]:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


def _received(message: Message, payload: bytes) -> Received:
    return Received(decode(payload), *_place(message))


def _count(message: Message, outcome: str) -> None:
    metrics.RECEIVED.labels(_place(message)[0], outcome).inc()


def _letter(message: Message, error: Exception) -> DeadLetter:
    topic, partition, offset = _place(message)
    key = message.key()
    return DeadLetter(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key.encode() if isinstance(key, str) else key,
        payload=message.value() or b"",
        error=describe(error),
        stack="".join(traceback.format_exception(error)),
    )
