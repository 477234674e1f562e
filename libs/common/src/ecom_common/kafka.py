"""Kafka clients, with every option that matters spelled out and its reason.

Clients are created inside `main`, after any fork, never at import. Everything that is a setting of the
installation comes from `KafkaSettings`.
"""

import logging
from collections.abc import Iterable
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
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
        # An idle fetch returns after 20 ms; with its default of a second, this back-off between fetches
        # kept a worker with a backlog waiting 40 % of the time.
        "fetch.wait.max.ms": 20,
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


def _topic_options(topic: Topic) -> dict[str, str]:
    options = {"cleanup.policy": "compact" if topic.compacted else "delete"}
    if topic.retention_ms is not None and not topic.compacted:
        options["retention.ms"] = str(topic.retention_ms)
    return options
