"""The worker process: answers commands, asks the provider, and relays the outbox."""

import logging
import sys

from ecom_common.database import Sessions
from ecom_common.errors import ConfigurationError
from ecom_common.logs import configure_logging
from ecom_common.service_worker import Parts, run_worker, worker_sessions
from ecom_common.settings import KafkaSettings, load
from ecom_common.worker import Sweep
from sqlalchemy.orm import Session

from payment_service import metrics, service
from payment_service.consumers import TOPICS, handlers
from payment_service.jobs import JobSettings, ProviderJobs
from payment_service.models import SCHEMA_VERSION, SERVICE
from payment_service.provider import Provider
from payment_service.settings import Settings
from payment_service.simulator import Simulator
from payment_service.simulator_book import open_book
from payment_service.states import Backoff

OBSERVE_EVERY_S = 2.0

log = logging.getLogger(__name__)


def main() -> int:
    """Work until told to stop; 2 when the settings are not usable."""
    try:
        settings = load(Settings)
        kafka_settings = load(KafkaSettings)
        configure_logging(service=SERVICE, process="worker", level=settings.log_level)
        sessions = worker_sessions(settings, SERVICE)
        jobs = make_jobs(settings, sessions, _provider(settings))
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - there is no log to write to yet
        return 2
    run_worker(parts(jobs), settings, kafka_settings, sessions)
    return 0


def make_jobs(settings: Settings, sessions: Sessions, provider: Provider) -> ProviderJobs:
    """What asks the provider, as the settings want it."""
    return ProviderJobs(
        sessions,
        provider,
        JobSettings(
            threads=settings.provider_threads,
            call_timeout_s=settings.provider_timeout_s,
            lease_s=settings.provider_lease_s,
            backoff=Backoff(settings.provider_retry_first_s, settings.provider_retry_most_s),
        ),
    )


def _provider(settings: Settings) -> Provider:
    if settings.environment == "production":
        log.warning("payments go to the built-in simulator: no money moves")
    book = open_book(
        settings.provider_database_url.get_secret_value(),
        timeout_s=settings.provider_timeout_s,
        connections=settings.provider_threads,
    )
    return Simulator(
        book,
        timeout_s=settings.provider_timeout_s,
        slow_s=settings.simulator_slow_s,
        late_s=settings.simulator_late_s,
    )


def parts(jobs: ProviderJobs) -> Parts:
    """What is the payment's own in its worker."""
    return Parts(
        service=SERVICE,
        schema_version=SCHEMA_VERSION,
        topics=TOPICS,
        handlers=handlers(jobs),
        sweeps=[Sweep("observe_payments", OBSERVE_EVERY_S, _observe)],
        side_jobs=[jobs],
    )


def _observe(session: Session) -> int:
    watched = service.look_after(session)
    metrics.PAYMENTS.labels("unknown").set(watched.unknown)
    metrics.PAYMENTS.labels("refunding").set(watched.refunding)
    metrics.PAYMENTS.labels("refund_failed").set(watched.refund_failed)
    metrics.PROVIDER_JOBS_DUE.set(watched.jobs_due)
    metrics.PROVIDER_JOBS_AGE_SECONDS.set(watched.oldest_job_age.total_seconds())
    return 0


if __name__ == "__main__":
    sys.exit(main())
