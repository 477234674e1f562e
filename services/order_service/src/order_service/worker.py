"""The order service's worker process: consumer, relay and sweeper. Nothing happens at import."""

import sys
from typing import Final

from ecom_common.errors import EcomError
from ecom_common.logs import configure_logging
from ecom_common.service_worker import Parts, run_worker, worker_sessions
from ecom_common.settings import KafkaSettings, load
from ecom_common.worker import Sweep
from sqlalchemy.orm import Session

from order_service import repository
from order_service.consumers import TOPICS, handlers
from order_service.metrics import FLAGGED_ORDERS, OPEN_ORDERS, RESOLVED_ORDERS, STUCK_ORDERS
from order_service.models import SCHEMA_VERSION, SERVICE
from order_service.service import OrderDesk
from order_service.settings import Settings

SWEEP_EVERY_S: Final = 0.5
SWEEP_AT_MOST: Final = 200
"""Orders a round; a full round is followed by the next at once."""
OBSERVE_EVERY_S: Final = 5.0
PLACED_POLL_S: Final = 0.01
"""The api places orders, and their customers wait for what follows."""
COUNT_AT_MOST: Final = 100_000


def _observe(session: Session) -> int:
    OPEN_ORDERS.set(repository.count_open(session, COUNT_AT_MOST))
    STUCK_ORDERS.set(repository.count_stuck(session))
    FLAGGED_ORDERS.set(repository.count_flagged(session))
    RESOLVED_ORDERS.set(repository.count_resolved(session))
    return 0


def parts(desk: OrderDesk) -> Parts:
    """What is the order service's own in its worker."""
    sweep = Sweep(
        "orders",
        SWEEP_EVERY_S,
        lambda session: desk.sweep(session, most=SWEEP_AT_MOST),
        full_round=SWEEP_AT_MOST,
    )
    return Parts(
        service=SERVICE,
        schema_version=SCHEMA_VERSION,
        topics=TOPICS,
        handlers=handlers(desk),
        sweeps=[sweep, Sweep("observe_orders", OBSERVE_EVERY_S, _observe)],
        outbox_poll_s=PLACED_POLL_S,
    )


def main() -> int:
    """Work until told to stop; 2 when the environment is not usable."""
    try:
        settings, kafka_settings = load(Settings), load(KafkaSettings)
        configure_logging(service=SERVICE, process="worker", level=settings.log_level)
        desk = OrderDesk(settings)
        run_worker(parts(desk), settings, kafka_settings, worker_sessions(settings, SERVICE))
    except EcomError as error:
        print(f"{SERVICE}: {error}", file=sys.stderr)  # noqa: T201 - the log may not exist yet
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
