"""Publishing again what was published before, without getting in the way of what is published now.

In pages, each a transaction, and none while the outbox is full: the messages of the moment come first.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from sqlalchemy.orm import Session

from ecom_common import outbox
from ecom_common.batch import Failed, apply_batch
from ecom_common.logs import describe
from ecom_common.operations import DONE, REFUSED, Context
from ecom_common.terminal import say, show_json

K = TypeVar("K")

PAGE: Final = 100
"""Things in one transaction: their locks are held for some milliseconds."""
FULL_OUTBOX: Final = 2_000
"""Rows beyond which a republication waits."""
DRAIN_LIMIT_S: Final = 60.0
_POLL_S: Final = 0.2


def publish_pages(
    context: Context,
    options: argparse.Namespace,
    pages: Iterable[Sequence[K]],
    republish: Callable[[Session, Sequence[K]], Sequence[bool]],
    *,
    what: str,
) -> int:
    """Publish page after page and say how much; `republish` says for each thing whether there is such a one."""
    done, missing = 0, []
    for page in pages:
        if not _has_room(context):
            sys.stderr.write(
                f"{context.service}: the outbox does not drain; {done} {what} are done, and the next would "
                f"be {page[0]}. {context.hint('glance')}\n"
            )
            return REFUSED
        outcomes = apply_batch(context.sessions, republish, page, name="operations")
        for one, outcome in zip(page, outcomes, strict=True):
            if isinstance(outcome, Failed):
                missing.append(f"{one}: {describe(outcome.error)}")
            elif not outcome:
                missing.append(f"{one}: there is no such one")
            else:
                done += 1
    for line in missing:
        sys.stderr.write(f"{context.service}: {line}\n")
    if options.json:
        show_json({"published": done, "failed": len(missing)})
    else:
        say(f"{context.service}: {done} {what} published again")
    return REFUSED if missing else DONE


def in_pages(things: Sequence[K]) -> list[list[K]]:
    """What was named, each once."""
    unique = list(dict.fromkeys(things))
    return [unique[begin : begin + PAGE] for begin in range(0, len(unique), PAGE)]


def _has_room(context: Context) -> bool:
    """Wait until the outbox has room; False when it does not get any."""
    deadline = time.monotonic() + DRAIN_LIMIT_S
    while True:
        with context.sessions() as session:
            rows, _ = outbox.backlog(session)
        if rows < FULL_OUTBOX:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
