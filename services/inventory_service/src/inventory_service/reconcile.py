"""Makes the inventory ready to agree with the others again, after a restore.

    python -m inventory_service.reconcile

What is held gets its full time once more: the orders will say what becomes of it, and a reservation that runs
out first would be lost to an order that has sold it. Every item is published again, with a version that is
higher than any it can have had in what was lost: an order service that knows more recent ones takes ours.
Goes before the worker, which would release what is overdue.
"""

import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Final

from ecom_common.batch import Failed, apply_batch
from ecom_common.clock import database_time
from ecom_common.database import Sessions
from ecom_common.errors import ConfigurationError, EcomError
from ecom_common.logs import describe
from ecom_common.outbox import publish
from ecom_common.service_worker import worker_sessions
from ecom_common.settings import load
from sqlalchemy.orm import Session

from inventory_service import repository
from inventory_service.models import SERVICE, Item
from inventory_service.publishing import item_changed
from inventory_service.settings import Settings

AT_ONCE: Final = 200
"""Items in one transaction."""
VERSIONS_LOST: Final = 1_000
"""More changes of one item than anybody makes between a backup and its use."""


def hold_on(session: Session, ttls: Sequence[timedelta]) -> list[timedelta]:
    """Give whatever is held its time from now on."""
    (ttl,) = ttls
    repository.hold_until(session, database_time(session) + ttl)
    return [ttl]


def publish_again(session: Session, skus: Sequence[str]) -> list[str]:
    """Publish these items, each as news."""
    now = database_time(session)
    items = repository.lock_items(session, skus)
    for item in items.values():
        item.version += VERSIONS_LOST
        item.updated_at = now
    repository.update_items(session, items.values())
    publish(session, [item_changed(item, now, traceparent=None) for item in items.values()])
    return list(skus)


def all_skus(sessions: Sessions) -> Iterable[list[str]]:
    last: str | None = None
    while True:
        with sessions() as session:
            page: Sequence[Item] = repository.list_items(
                session, containing=None, after=last, most=AT_ONCE
            )
            skus = [item.sku for item in page]
        if not skus:
            return
        yield skus
        last = skus[-1]


def main() -> int:
    """0 done; 1 something could not be, or the database does not answer; 2 bad settings."""
    try:
        settings = load(Settings)
        sessions = worker_sessions(settings, SERVICE)
        outcomes = _reconcile(sessions, timedelta(seconds=settings.reservation_ttl_s))
    except EcomError as error:
        print(f"{SERVICE}: {error}", file=sys.stderr)  # noqa: T201 - a command's error
        return 2 if isinstance(error, ConfigurationError) else 1
    failed = [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
    for problem in failed:
        print(f"{SERVICE}: {describe(problem)}", file=sys.stderr)  # noqa: T201
    print(f"{len(outcomes) - len(failed)} items published again")  # noqa: T201 - the command's result
    return 1 if failed else 0


def _reconcile(sessions: Sessions, ttl: timedelta) -> list[str | Failed]:
    held = apply_batch(sessions, hold_on, [ttl], name="reconcile")
    again = partial(apply_batch, sessions, publish_again, name="reconcile")
    return [
        *(outcome for outcome in held if isinstance(outcome, Failed)),
        *(outcome for page in all_skus(sessions) for outcome in again(page)),
    ]


if __name__ == "__main__":
    sys.exit(main())
