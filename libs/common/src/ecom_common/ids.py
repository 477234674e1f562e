"""Identifiers: UUID version 7 (RFC 9562), so that new rows land at the right edge of an index.

The source is replaceable because a simulation that replays by seed needs ids that replay too.
"""

from collections.abc import Callable
from uuid import UUID

import uuid_utils.compat

IdSource = Callable[[], UUID]


def uuid7() -> UUID:
    """A fresh version 7 UUID as the standard library's type."""
    return uuid_utils.compat.uuid7()


class _Source:
    """Holds the process-wide source; a module global that functions rebind would be harder to type."""

    current: IdSource = staticmethod(uuid7)


def new_id() -> UUID:
    """The next id from the process-wide source."""
    return _Source.current()


def use_id_source(source: IdSource) -> None:
    """Replace the source for the whole process; for simulations."""
    _Source.current = staticmethod(source)
