"""A broker with the faults of real ones, and clients of it with the surface of confluent_kafka's.

Partitioned logs; what is produced may be lost, sent twice, or kept without an acknowledgement; consumers
get partitions in any order, lose them to others at any time, and start again from offsets that may be old.
Only what a client of Kafka can rely on holds here: a partition keeps the order in which it took its records.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from ecom_contracts.topics import ALL_TOPICS

from tests.simulation.trace import Trace
from tests.simulation.weather import CALM, Weather

Place = tuple[str, int]
"""Topic and partition."""
OnDelivery = Callable[[KafkaError | None, Message], None]


class Sent(NamedTuple):
    """A record that the broker has taken, whatever became of it afterwards."""

    topic: str
    key: str
    value: bytes


@dataclass
class Broker:
    """The logs, the committed offsets, and who has which partition."""

    random: Random
    trace: Trace
    weather: Weather = CALM
    is_down: bool = False
    lost_data: bool = False
    ever_sent: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.partitions = {topic.name: topic.partitions for topic in ALL_TOPICS}
        self.logs: dict[Place, list[Message]] = {
            (topic, number): []
            for topic, count in self.partitions.items()
            for number in range(count)
        }
        self.committed: dict[tuple[str, Place], int] = {}
        self._held_back: list[Sent] = []
        self._members: dict[str, list[SimulatedConsumer]] = {}
        self._owners: dict[tuple[str, Place], SimulatedConsumer] = {}

    # ---- producing

    def take(self, topic: str, key: str, value: bytes) -> Message:
        """Take a record, for good or for later."""
        self.ever_sent.append(Sent(topic, key, value))
        if self.random.random() < self.weather.held_back:
            self._held_back.append(self.ever_sent[-1])
            return _message(topic, 0, 0, key, value)
        return self._append(topic, key, value)

    @property
    def holds_back(self) -> bool:
        return bool(self._held_back)

    def let_go(self) -> None:
        """One of the records that were held back comes after all."""
        number = self.random.randrange(len(self._held_back))
        topic, key, value = self._held_back.pop(number)
        self.trace.note(f"→ {topic} {key} late #{self._append(topic, key, value).offset()}")

    def _append(self, topic: str, key: str, value: bytes) -> Message:
        partition = zlib.crc32(key.encode()) % self.partitions[topic]
        log = self.logs[topic, partition]
        message = _message(topic, partition, len(log), key, value)
        log.append(message)
        return message

    # ---- groups

    def join(self, group: str, member: "SimulatedConsumer") -> None:
        self._members.setdefault(group, []).append(member)
        self.rebalance(group)

    def leave(self, group: str, member: "SimulatedConsumer") -> None:
        if member in self._members[group]:
            self._members[group].remove(member)
            self.rebalance(group)

    @property
    def groups(self) -> list[str]:
        return sorted(self._members)

    def rebalance(self, group: str) -> None:
        """Give every partition to some member; those who had it find out at their next poll."""
        members = self._members[group]
        for place in self._read_by(group):
            if members:
                self._owners[group, place] = self.random.choice(members)
            else:
                self._owners.pop((group, place), None)

    def owned_by(self, group: str, member: "SimulatedConsumer") -> set[Place]:
        return {
            place for (g, place), owner in self._owners.items() if g == group and owner is member
        }

    def rewind(self, group: str) -> None:
        """Offsets that were committed are forgotten: some by a little, some altogether."""
        for place in self._read_by(group):
            known = self.committed.get((group, place), 0)
            back = self.random.choice((0, 1, 3, 10, known))
            self.committed[group, place] = max(0, known - back)
        self.rebalance(group)

    def _read_by(self, group: str) -> list[Place]:
        topics = {topic for member in self._members[group] for topic in member.topics}
        return [
            (topic, number) for topic in sorted(topics) for number in range(self.partitions[topic])
        ]

    # ---- losses

    def lose_tail(self) -> None:
        """A replica that was behind becomes the leader: the last records of a partition are gone."""
        place = self.random.choice(sorted(self.logs))
        count = self.random.choice((1, 2, 5))
        self.lost_data = True
        self.trace.note(f"{place} loses its last {count}")
        del self.logs[place][-count:]

    def lose_everything(self) -> None:
        self.lost_data = True
        for log in self.logs.values():
            log.clear()
        self.committed.clear()


class SimulatedProducer:
    """What the relay uses of a Producer."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._queue: list[tuple[str, str, bytes, OnDelivery]] = []

    def produce(self, topic: str, value: bytes, key: str, *, on_delivery: OnDelivery) -> None:
        if self._broker.random.random() < self._broker.weather.queue_full:
            raise BufferError("Local: Queue full")
        self._queue.append((topic, key, value, on_delivery))

    def flush(self, timeout: float) -> int:
        """How many records are without an answer at the end."""
        broker = self._broker
        chance = broker.random.random
        if broker.is_down or (self._queue and chance() < broker.weather.no_answer):
            for topic, key, value, _ in self._queue:
                # Whether a request has come through nobody can tell.
                if not broker.is_down and chance() < 0.5:
                    self._note(topic, key, "kept without a word")
                    broker.take(topic, key, value)
            return len(self._queue)
        is_bad = chance() < broker.weather.bad_delivery
        queue, self._queue = self._queue, []
        for topic, key, value, on_delivery in queue:
            self._deliver(topic, key, value, on_delivery, is_bad and chance() < 0.4)
        return 0

    def purge(self) -> None:
        self._queue.clear()

    def _deliver(
        self, topic: str, key: str, value: bytes, on_delivery: OnDelivery, fails: bool
    ) -> None:
        if not fails:
            message = self._broker.take(topic, key, value)
            self._note(topic, key, f"#{message.offset()}")
            on_delivery(None, message)
            return
        if self._broker.random.random() < 0.5:
            self._note(topic, key, "kept, but reported as lost")
            self._broker.take(topic, key, value)
        else:
            self._note(topic, key, "lost")
        error = KafkaError(KafkaError._MSG_TIMED_OUT)
        on_delivery(error, _message(topic, 0, 0, key, value))

    def _note(self, topic: str, key: str, what: str) -> None:
        self._broker.trace.note(f"→ {topic} {key} {what}")


class SimulatedConsumer:
    """What the chassis' consumer uses of a Consumer."""

    def __init__(self, broker: Broker, group: str) -> None:
        self._broker = broker
        self._group = group
        self.topics: list[str] = []
        self._positions: dict[Place, int] = {}
        self._paused: set[Place] = set()
        self._on_revoke: Callable[[SimulatedConsumer, list[TopicPartition]], None] | None = None

    def subscribe(
        self,
        topics: list[str],
        on_revoke: Callable[["SimulatedConsumer", list[TopicPartition]], None],
    ) -> None:
        self.topics = topics
        self._on_revoke = on_revoke
        self._broker.join(self._group, self)

    def poll(self, timeout: float) -> Message | None:
        self._follow_the_group()
        return None if self._broker.is_down else self._next()

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        """Some of what is there: how much has been fetched is a matter of luck."""
        wanted = self._broker.random.choice((0, 1, 3, 10, num_messages))
        taken: list[Message] = []
        while len(taken) < min(wanted, num_messages) and (message := self._next()) is not None:
            taken.append(message)
        return taken

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused |= {_place(at) for at in partitions}

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused -= {_place(at) for at in partitions}

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*place) for place in sorted(self._positions)]

    def commit(self, offsets: Sequence[TopicPartition], *, asynchronous: bool) -> None:
        """Refused for a partition that has moved to another member, as the broker would."""
        owned = self._broker.owned_by(self._group, self)
        if any(_place(at) not in owned for at in offsets):
            raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION))
        if self._broker.is_down or self._broker.random.random() < self._broker.weather.offsets_lost:
            return  # asynchronous: nobody is told
        for at in offsets:
            self._broker.committed[self._group, _place(at)] = at.offset

    def close(self) -> None:
        self._broker.leave(self._group, self)

    def _follow_the_group(self) -> None:
        owned = self._broker.owned_by(self._group, self)
        if lost := sorted(self._positions.keys() - owned):
            assert self._on_revoke is not None
            self._on_revoke(self, [TopicPartition(*place) for place in lost])
        for place in lost:
            del self._positions[place]
        for place in sorted(owned - self._positions.keys()):
            self._positions[place] = self._broker.committed.get((self._group, place), 0)

    def _next(self) -> Message | None:
        for place in self._positions:
            if self._positions[place] > len(self._broker.logs[place]):
                self._positions[place] = 0  # the log was lost: auto.offset.reset
        ready = [
            place
            for place in sorted(self._positions)
            if place not in self._paused and self._positions[place] < len(self._broker.logs[place])
        ]
        if not ready:
            return None
        place = self._broker.random.choice(ready)
        message = self._broker.logs[place][self._positions[place]]
        self._positions[place] += 1
        return message


def _place(at: TopicPartition) -> Place:
    return at.topic, at.partition


def _message(topic: str, partition: int, offset: int, key: str, value: bytes) -> Message:
    return Message(topic=topic, partition=partition, offset=offset, key=key.encode(), value=value)
