"""Kafka clients, with every option that matters spelled out and its reason.

Clients are created inside `main`, after any fork, never at import. Everything that is a setting of the
installation comes from `KafkaSettings`.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # its documentation's way
from confluent_kafka.cimpl import NewTopic
from ecom_contracts.topics import Topic

from ecom_common.errors import DependencyDown
from ecom_common.settings import KafkaSettings

DELIVERY_TIMEOUT_MS: Final = 5_000
MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""The broker's usual limit, so that whatever it has given us can be published as a dead letter."""
TOPIC_TIMEOUT_MS: Final = 1_000
ADMIN_TIMEOUT_S: Final = 5
LOOK_AGAIN_TIMEOUT_S: Final = 2
"""For a client that has been connected before. With a relay's round beside it, it stays below the time after
which the database ends a relay's session."""

# What a broker says of a group just after it has started, or when it has never heard of any.
_LOADING: Final = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
_LOADING_POLL_S: Final = 0.2
_EARLIEST: Final = OffsetSpec.earliest()  # type: ignore[no-untyped-call] # shipped half typed
_LATEST: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class GroupLag:
    """How far a consumer group is behind."""

    behind: Mapping[str, int]
    """Topic → messages that the group has not committed yet."""
    members: int
    """How many consumers it has."""


log = logging.getLogger(__name__)
# librdkafka's own words (broker down, broker up) end in our log format.
_client_log = logging.getLogger("librdkafka")


def _connection(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": client_id,
        "security.protocol": settings.security_protocol,
        # A broker that comes back is found within a second, not within ten.
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        "socket.keepalive.enable": True,
        "socket.nagle.disable": True,
        "allow.auto.create.topics": False,
        "log.connection.close": False,
    }
    optional = {
        "sasl.mechanism": settings.sasl_mechanism,
        "sasl.username": settings.sasl_username,
        "sasl.password": settings.sasl_password and settings.sasl_password.get_secret_value(),
        "ssl.ca.location": settings.ssl_ca_location,
    }
    return options | {name: value for name, value in optional.items() if value is not None}


def make_producer(
    settings: KafkaSettings, *, client_id: str, delivery_timeout_ms: int = DELIVERY_TIMEOUT_MS
) -> Producer:
    """A producer that keeps the order of a key within its session and reports every delivery."""
    options = _connection(settings, client_id) | {
        # acks=all, and retries that neither duplicate nor reorder within this producer's session.
        "enable.idempotence": True,
        "acks": "all",
        # A delivery that takes longer is given up here and read from the outbox again.
        "message.timeout.ms": delivery_timeout_ms,
        "message.max.bytes": MAX_MESSAGE_BYTES,
        # Nobody creates topics while we publish: one that is not there is refused soon, not waited for
        # until every message of the round has timed out.
        "topic.metadata.propagation.max.ms": TOPIC_TIMEOUT_MS,
        # Java's partitioner, so that a producer in another language finds the same partition for a key.
        "partitioner": "murmur2_random",
        # Rows come in batches and are flushed at once: waiting for more only adds delay.
        "linger.ms": 0,
        "compression.type": "none",
        "queue.buffering.max.messages": 100_000,
    }
    return Producer(options, logger=_client_log)


def make_consumer(settings: KafkaSettings, *, client_id: str, group: str) -> Consumer:
    """A consumer that starts at the beginning and commits only what it is told to."""
    options = _connection(settings, client_id) | {
        "group.id": group,
        # KIP-848: rebalances without stopping the others; the session time-out is the broker's setting.
        "group.protocol": "consumer",
        # The defaults commit messages that are still being worked on, and skip what came before us.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        # Small pods: at most 16 MiB of messages waiting in the client.
        "queued.min.messages": 1_000,
        "queued.max.messages.kbytes": 16_384,
        # A message ends the wait of a fetch at once. With 20 ms, the broker took 0.71 instead of 0.43 ms of CPU an order
        # at 128 clients. With its default of a second, the back-off between fetches kept a worker
        # with a backlog waiting 40 % of the time.
        "fetch.wait.max.ms": 200,
        "fetch.queue.backoff.ms": 5,
    }
    return Consumer(options, logger=_client_log)


class Topics:
    """Makes sure that some topics are there. It keeps its client: workers look again and again, because a
    broker may lose its topics while they run."""

    def __init__(self, settings: KafkaSettings, topics: Iterable[Topic], *, client_id: str) -> None:
        self._settings = settings
        self._topics = tuple(topics)
        self._timeout_s = ADMIN_TIMEOUT_S
        self._admin = AdminClient(_connection(settings, client_id), logger=_client_log)

    def ensure(self) -> None:
        """Create those that are missing; raise DependencyDown when the broker does not answer.

        Existing topics are left as they are: partitions and retention are the operator's from then on, and so
        a broker that lets us create none will do when it has them all.
        """
        self._admin.poll(0)  # its log lines wait for somebody to fetch them
        try:
            existing = self._admin.list_topics(timeout=self._timeout_s).topics
        except KafkaException as error:
            raise DependencyDown(f"the broker does not answer: {error}") from error
        if missing := [topic for topic in self._topics if topic.name not in existing]:
            self._create(missing)
        self._timeout_s = LOOK_AGAIN_TIMEOUT_S

    def _create(self, topics: Iterable[Topic]) -> None:
        wanted = [
            NewTopic(
                topic.name,
                num_partitions=self._settings.partitions or topic.partitions,
                replication_factor=self._settings.replication_factor,
                config=_topic_options(topic),
            )
            for topic in topics
        ]
        created = self._admin.create_topics(wanted, request_timeout=ADMIN_TIMEOUT_S)
        for name, future in created.items():
            try:
                future.result(ADMIN_TIMEOUT_S + 1)
                log.info("created topic %s", name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise DependencyDown(f"topic {name} could not be created: {error}") from error
            except TimeoutError as error:
                raise DependencyDown("the broker does not answer") from error


def ensure_topics(settings: KafkaSettings, topics: Iterable[Topic], *, client_id: str) -> None:
    """Make sure once that the topics are there; see `Topics`."""
    Topics(settings, topics, client_id=client_id).ensure()


def group_lag(
    settings: KafkaSettings, *, group: str, topics: Iterable[str], client_id: str
) -> GroupLag:
    """How far the group is behind, as far as it has committed. Only asks; DependencyDown without an answer.

    A partition without a committed offset counts from its beginning, where the group would start.
    """
    admin = AdminClient(_connection(settings, client_id), logger=_client_log)
    try:
        places = _partitions(admin, topics)
        begins, ends = _ends(admin, places, _EARLIEST), _ends(admin, places, _LATEST)
        committed = _committed(admin, group, places)
        members = _members(admin, group)
    except (KafkaException, TimeoutError) as error:
        raise DependencyDown(f"the broker does not answer: {error}") from error
    behind: Counter[str] = Counter()
    for place, end in ends.items():
        # What retention has taken away is nobody's backlog any more.
        behind[place[0]] += max(0, end - max(committed.get(place, 0), begins[place]))
    return GroupLag(behind, members)


_Place = tuple[str, int]


def _partitions(admin: AdminClient, topics: Iterable[str]) -> list[TopicPartition]:
    known = admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics
    return [
        TopicPartition(t, number) for t in topics if t in known for number in known[t].partitions
    ]


def _ends(admin: AdminClient, places: list[TopicPartition], which: OffsetSpec) -> dict[_Place, int]:
    if not places:
        return {}
    asked = dict.fromkeys(places, which)
    found = admin.list_offsets(asked, request_timeout=ADMIN_TIMEOUT_S)
    return {
        (at.topic, at.partition): future.result(ADMIN_TIMEOUT_S + 1).offset
        for at, future in found.items()
    }


def _committed(admin: AdminClient, group: str, places: list[TopicPartition]) -> dict[_Place, int]:
    if not places:
        return {}
    asked = [ConsumerGroupTopicPartitions(group, places)]
    found = _answer(
        lambda: admin.list_consumer_group_offsets(asked, request_timeout=ADMIN_TIMEOUT_S)[group]
    )
    return {(at.topic, at.partition): at.offset for at in found.topic_partitions or []}


def _members(admin: AdminClient, group: str) -> int:
    try:
        found = _answer(
            lambda: admin.describe_consumer_groups([group], request_timeout=ADMIN_TIMEOUT_S)[group]
        )
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return 0  # nobody has ever joined
        raise
    return len(found.members)


def _answer(ask: Callable[[], "Future[Any]"]) -> Any:
    """The answer; asked again while the broker is still loading what it knows of groups."""
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while True:
        try:
            return ask().result(ADMIN_TIMEOUT_S + 1)
        except KafkaException as error:
            if error.args[0].code() not in _LOADING or time.monotonic() > deadline:
                raise
        time.sleep(_LOADING_POLL_S)


def _topic_options(topic: Topic) -> dict[str, str]:
    options = {"cleanup.policy": "compact" if topic.compacted else "delete"}
    if topic.retention_ms is not None and not topic.compacted:
        options["retention.ms"] = str(topic.retention_ms)
    return options
