"""Having the services agree again after a restore, and telling where they do not: `scripts/reconcile`.

The services do the work (`order_service.reconcile`, `inventory_service.reconcile`), through their own messages.
Here it is begun, waited for, and its result compared across the databases, which no service may read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from ecom_local import facts
from ecom_local.facts import Differences, Paid
from ecom_local.platform import Platform

Say = Callable[[str], None]

SETTLING_LIMIT_S = 120
_QUIET_S = 5
"""So long nothing changes any more when all is done that will be."""
_POLL_S = 1.0


def reconcile(platform: Platform, *, undo_unknown: bool, say: Say) -> None:
    """Ask for everything again. The services stop for it: see `prepare`."""
    platform.start_databases()
    platform.stop_services()
    prepare(platform, say=say)
    platform.start_all()
    if undo_unknown:
        settled_differences(platform, say=say)
        _undo_unknown(platform, say=say)


def prepare(platform: Platform, *, say: Say) -> None:
    """What has to happen before the workers go on, or they would give up what is past its deadline."""
    for service in ("inventory", "order"):
        say(f"{service}: {_run(platform, service, f'{service}_service.reconcile')}")


def settled_differences(platform: Platform, *, say: Say) -> Differences:
    """Wait until the services have said what they have to say, and compare."""
    say("waiting until the services have nothing more to say to each other")
    deadline = time.monotonic() + SETTLING_LIMIT_S
    before, since = None, time.monotonic()
    while True:
        present = facts.read(platform)
        found = facts.differences(present)
        now = time.monotonic()
        if present != before:
            before, since = present, now
        if (not found and now - since > _POLL_S) or now - since > _QUIET_S or now > deadline:
            return found
        time.sleep(_POLL_S)


def _undo_unknown(platform: Platform, *, say: Say) -> None:
    present = facts.read(platform)
    lines = [
        json.dumps(
            {
                "order_id": order_id,
                "customer_id": paid.customer_id,
                "currency": paid.currency,
                "amount": paid.amount,
            }
        )
        for order_id in facts.unknown(present)
        for paid in [present.payments.get(order_id, Paid("none", 0))]
    ]
    if lines:
        said = _run(platform, "order", "order_service.reconcile", "--undo", text="\n".join(lines))
        say(f"order: {said}")


def _run(platform: Platform, service: str, module: str, *options: str, text: str = "") -> str:
    command = platform.service_command(service, "-m", module, *options)
    return command.run(f"{module} failed", text=text).strip()
