"""The command of the tests about batches: write a note."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ecom_common.errors import Problem
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.support.chassis import Database


class Note(NamedTuple):
    """A command: write a note, once for each key."""

    key: str
    then: Callable[[Session], Any] = lambda _: None


def write(session: Session, notes: Sequence[Note]) -> list[str | Problem]:
    """A handler as services write them: refusals are values, keys are looked up first."""
    results: list[str | Problem] = []
    for note in notes:
        if note.key.startswith("refused"):
            results.append(Problem("not_found", "There is no such thing."))
            continue
        seen = session.scalar(text("SELECT note FROM effects WHERE note = :n"), {"n": note.key})
        if seen is None:
            session.execute(text("INSERT INTO effects (note) VALUES (:n)"), {"n": note.key})
        note.then(session)
        results.append("found" if seen else "written")
    return results


def raise_(error: Exception) -> Callable[[Session], None]:
    def then(_: Session) -> None:
        raise error

    return then


def notes_in(database: Database) -> list[str]:
    return database.rows("SELECT note FROM effects ORDER BY id")


def lock_note(session: Session, note: str) -> None:
    session.execute(text("SELECT id FROM effects WHERE note = :n FOR UPDATE"), {"n": note})
