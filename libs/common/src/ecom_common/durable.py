"""What is to happen once a transaction has committed, or once it has not.

One listener for all sessions: registering one with each session costs more than a statement does.
"""

import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

log = logging.getLogger(__name__)

_COMMITTED: Final = "ecom.durable.committed"
_UNDONE: Final = "ecom.durable.undone"
_Call = Callable[[], object]


def when_durable(session: Session, call: _Call) -> None:
    """Call it after the commit of the session's transaction; in the order in which it was asked for."""
    session.info.setdefault(_COMMITTED, []).append(call)


def when_undone(session: Session, call: _Call) -> None:
    """Call it when the session's transaction was rolled back, or its connection lost in the commit: then it may have
    been committed all the same."""
    session.info.setdefault(_UNDONE, []).append(call)


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    _call(session, _COMMITTED, instead_of=_UNDONE)


@event.listens_for(Session, "after_soft_rollback")
def _after_rollback(session: Session, _: SessionTransaction) -> None:
    _call(session, _UNDONE, instead_of=_COMMITTED)


def _call(session: Session, name: str, *, instead_of: str) -> None:
    session.info.pop(instead_of, None)
    calls: list[_Call] = session.info.pop(name, [])
    for call in calls:
        try:
            call()
        except Exception:
            # What is committed must not be done again, nor must the next call wait for it.
            log.exception("what was to follow a transaction has failed")
