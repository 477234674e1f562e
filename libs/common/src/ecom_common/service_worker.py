"""Puts a service's worker together from its parts: the same composition for all three services."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from ecom_contracts.topics import ALL_TOPICS, Topic, dead_letter_topic
from sqlalchemy.orm import Session

from ecom_common import dead_letters, idempotency, inbox, kafka, metrics, outbox
from ecom_common.consumer import Consumer
from ecom_common.database import Sessions, make_engine, make_sessions
from ecom_common.health import Check, check_database
from ecom_common.memory import collect_seldom
from ecom_common.messages import Handlers
from ecom_common.relay import Relay, make_relay_engine
from ecom_common.settings import KafkaSettings, ServiceSettings, prepare_for_experiments
from ecom_common.worker import SideJob, Sweep, Worker, run_until_signalled

PRUNE_EVERY_S: Final = 10.0
PRUNE_AT_MOST: Final = 500
"""Rows a round: few, because the loop does nothing else meanwhile."""
PRUNE_PAUSE_S: Final = 0.2
"""Between full rounds: 2,500 rows a second, which is more than the busiest service learns in one at full load."""
OBSERVE_EVERY_S: Final = 2.0
SELDOM_WRITTEN_POLL_S: Final = 0.05
"""For outboxes that apis seldom write to: nobody waits for a change of the catalogue."""
BROKER_CHECK_TIMEOUT_S: Final = 3.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What differs between the services' workers."""

    service: str
    schema_version: str
    topics: Sequence[Topic]
    handlers: Handlers
    sweeps: Sequence[Sweep]
    side_jobs: Sequence[SideJob] = ()
    outbox_poll_s: float = SELDOM_WRITTEN_POLL_S
    """How often to look for what other processes write to the outbox; the worker's own is published at once."""


def run_worker(
    parts: Parts, settings: ServiceSettings, kafka_settings: KafkaSettings, sessions: Sessions
) -> None:
    """Run the service's worker until it is told to stop.

    Waits for nothing at start: while the broker or the database is away the loop says so and goes on.
    """
    prepare_for_experiments(settings)
    client_id = f"{parts.service}-worker-{os.getpid()}"
    relay_engine = make_relay_engine(
        settings.database_url.get_secret_value(), application_name=f"{parts.service}-relay"
    )
    make_client = partial(
        kafka.make_consumer, kafka_settings, client_id=client_id, group=parts.service
    )
    consumer = Consumer(
        make_client(),
        sessions,
        parts.handlers,
        topics=[topic.name for topic in parts.topics],
        dead_letter_topic=dead_letter_topic(parts.service).name,
        max_batch=settings.max_batch,
        renew=make_client,
    )
    relay = Relay(relay_engine, lambda: kafka.make_producer(kafka_settings, client_id=client_id))
    worker = Worker(
        sessions=sessions,
        prepare=kafka.Topics(kafka_settings, ALL_TOPICS, client_id=client_id).ensure,
        consumer=consumer,
        relay=relay,
        sweeps=[*parts.sweeps, *housekeeping(settings)],
        side_jobs=parts.side_jobs,
        outbox_poll_s=parts.outbox_poll_s,
    )
    collect_seldom()
    log.info("worker started")
    run_until_signalled(
        worker,
        host=settings.http_host,
        port=settings.http_port,
        checks={
            "database": check_database(sessions, schema_version=parts.schema_version),
            "broker": _broker_check(kafka_settings, client_id),
        },
    )
    log.info("worker stopped")


def worker_sessions(settings: ServiceSettings, service: str) -> Sessions:
    """The worker's sessions: one for the loop, the rest for side jobs and health."""
    engine = make_engine(
        settings.database_url.get_secret_value(),
        application_name=f"{service}-worker",
        pool_size=settings.database_pool_size,
    )
    return make_sessions(engine)


def housekeeping(settings: ServiceSettings) -> list[Sweep]:
    """What every worker sweeps: it forgets what is old, and exports what waits."""
    inbox_age = timedelta(hours=settings.inbox_retention_hours)
    key_age = timedelta(hours=settings.idempotency_retention_hours)
    return [
        Sweep(
            "prune_inbox",
            PRUNE_EVERY_S,
            lambda session: inbox.prune(session, older_than=inbox_age, most=PRUNE_AT_MOST),
            full_round=PRUNE_AT_MOST,
            pause_s=PRUNE_PAUSE_S,
        ),
        Sweep(
            "prune_idempotency_keys",
            PRUNE_EVERY_S,
            lambda session: idempotency.prune(session, older_than=key_age, most=PRUNE_AT_MOST),
            full_round=PRUNE_AT_MOST,
            pause_s=PRUNE_PAUSE_S,
        ),
        Sweep("observe", OBSERVE_EVERY_S, _observe),
    ]


def _observe(session: Session) -> int:
    rows, age = outbox.backlog(session)
    metrics.OUTBOX_ROWS.set(rows)
    metrics.OUTBOX_AGE_SECONDS.set(age.total_seconds())
    metrics.DEAD_LETTERS_OPEN.set(dead_letters.count_open(session))
    return 0


def _broker_check(settings: KafkaSettings, client_id: str) -> Check:
    probe = kafka.make_producer(settings, client_id=f"{client_id}-probe")

    def check() -> None:
        probe.poll(0)  # its log lines wait for somebody to fetch them
        probe.list_topics(timeout=BROKER_CHECK_TIMEOUT_S)

    return check
