"""The operators' command of the inventory service: `python -m inventory_service.operations`, in the image
`ecom-ops`. Publishes the catalogue again; dead letters and the glance are the chassis'."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from ecom_common.clock import database_time
from ecom_common.glance import Figure, count, glance_command
from ecom_common.letter_commands import LETTER_COMMANDS
from ecom_common.operations import COULD_NOT_LOOK, Command, Context, run_operations
from ecom_common.outbox import publish
from ecom_common.republishing import PAGE, in_pages, publish_pages
from sqlalchemy.orm import Session

from inventory_service import repository
from inventory_service.consumers import TOPICS
from inventory_service.models import SERVICE
from inventory_service.publishing import item_changed
from inventory_service.settings import Settings


def _republish(context: Context, options: argparse.Namespace) -> int:
    if bool(options.sku) == options.all:
        sys.stderr.write("name SKUs, or --all\n")
        return COULD_NOT_LOOK
    pages = in_pages(options.sku) or _all_skus(context)
    return publish_pages(context, options, pages, republish, what="items")


def _all_skus(context: Context) -> Iterator[list[str]]:
    last: str | None = None
    while True:
        with context.sessions() as session:
            items = repository.list_items(session, containing=None, after=last, most=PAGE)
            skus = [item.sku for item in items]
        if not skus:
            return
        yield skus
        last = skus[-1]


def republish(session: Session, skus: Sequence[str]) -> list[bool]:
    """Publish these items as they are, under the versions that they have: no news to whoever knows them."""
    now = database_time(session)
    items = repository.lock_items(session, skus)
    known = [items[sku] for sku in skus if sku in items]
    publish(session, [item_changed(item, now, traceparent=None) for item in known])
    return [sku in items for sku in skus]


def _figures(session: Session) -> list[Figure]:
    held, overdue = repository.count_held(session)
    return [
        Figure("held", held, f"{held} reservations are held"),
        count("overdue", overdue, "docs/runbook/stuck-order.md"),
    ]


def _republish_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sku", nargs="*", metavar="SKU")
    parser.add_argument("--all", action="store_true", help="the whole catalogue")


COMMANDS: Final = (
    glance_command([topic.name for topic in TOPICS], _figures),
    Command(
        "republish catalogue",
        "Publish items again as they are: for a consumer that has lost them, or a broker that has.",
        _republish,
        _republish_arguments,
    ),
    *LETTER_COMMANDS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_operations(SERVICE, Settings, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
