"""The worker process: `python -m inventory_service.worker`."""

import sys
from datetime import timedelta
from typing import Final

from ecom_common.errors import EcomError
from ecom_common.logs import configure_logging
from ecom_common.service_worker import Parts, run_worker, worker_sessions
from ecom_common.settings import KafkaSettings, load
from ecom_common.worker import Sweep

from inventory_service.consumers import TOPICS, handlers
from inventory_service.models import SCHEMA_VERSION, SERVICE
from inventory_service.service import expire_reservations
from inventory_service.settings import Settings

EXPIRE_EVERY_S: Final = 1.0
EXPIRE_AT_MOST: Final = 200
"""Reservations in one transaction: their locks are held for some milliseconds."""


def parts(settings: Settings) -> Parts:
    """What is the inventory's own in its worker."""
    expire = Sweep(
        "expire_reservations",
        EXPIRE_EVERY_S,
        lambda session: expire_reservations(session, EXPIRE_AT_MOST),
        full_round=EXPIRE_AT_MOST,
    )
    return Parts(
        service=SERVICE,
        schema_version=SCHEMA_VERSION,
        topics=TOPICS,
        handlers=handlers(timedelta(seconds=settings.reservation_ttl_s)),
        sweeps=[expire],
    )


def main() -> int:
    """Work until told to stop; 2 when the environment is not usable."""
    try:
        settings = load(Settings)
        kafka_settings = load(KafkaSettings)
        configure_logging(service=SERVICE, process="worker", level=settings.log_level)
        sessions = worker_sessions(settings, SERVICE)
        run_worker(parts(settings), settings, kafka_settings, sessions)
    except EcomError as error:
        print(f"{SERVICE}: {error}", file=sys.stderr)  # noqa: T201 - the log may not exist yet
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
