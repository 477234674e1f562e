"""A service at a glance: its outbox and relay, dead letters, the lag of its consumers, and figures of its own.

Read from the database and the broker, so it also works while the worker does not. Only looks.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from ecom_common import dead_letters, kafka, outbox
from ecom_common.errors import DependencyDown
from ecom_common.operations import COULD_NOT_LOOK, DONE, Command, Context
from ecom_common.terminal import duration, say, show_json

OLD_AFTER: Final = timedelta(seconds=30)
"""A row that waits longer waits for more than its turn."""
MUCH_LAG: Final = 1_000
OLD_OUTBOX: Final = "docs/runbook/old-outbox.md"
LAG: Final = "docs/runbook/lag.md"

_BY_TOPIC: Final = text(
    "SELECT topic, count(*) AS rows, count(DISTINCT key) AS keys, db_now() - min(created_at) AS age "
    "FROM outbox GROUP BY topic ORDER BY topic"
)
# The relay's advisory lock, a bigint, is shown in two halves; see `relay`.
_LEADER: Final = text(
    "SELECT pid, application_name FROM pg_locks JOIN pg_stat_activity USING (pid) "
    "WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
    "AND database = (SELECT oid FROM pg_database WHERE pg_database.datname = current_database()) "
    "AND (classid::bigint << 32 | objid::bigint) = hashtext('ecom.relay')::bigint"
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing to be seen: for programs its value, for people its words, and what to type next if anything."""

    name: str
    value: Any
    words: str
    hint: str = ""
    """A command, or a page of the runbook; set only when somebody should do something."""


Figures = Callable[[Session], Sequence[Figure]]


def glance_command(topics: Sequence[str], figures: Figures) -> Command:
    """`glance`, for a service that reads these topics and has these figures of its own."""

    def run(context: Context, options: argparse.Namespace) -> int:
        with context.sessions() as session:
            shown = [*figures(session), *_of_messages(session)]
        code = DONE
        try:
            shown.append(_lag(context, topics))
        except DependencyDown as error:
            sys.stderr.write(f"{context.service}: {error}\n")
            code = COULD_NOT_LOOK
        if options.json:
            show_json({figure.name: figure.value for figure in shown})
        else:
            _show(context, shown)
        return code

    return Command(
        "glance", "Show outbox, relay, dead letters, lag, and what waits for somebody.", run
    )


def _show(context: Context, shown: Sequence[Figure]) -> None:
    say(context.service)
    for figure in shown:
        mark, hint = ("!", f"   {_next(context, figure.hint)}") if figure.hint else (" ", "")
        say(f"  {mark} {figure.name:<14} {figure.words}{hint}")


def _next(context: Context, hint: str) -> str:
    return f"→ {hint}" if hint.startswith("docs/") else context.hint(hint)


def count(name: str, number: int, hint: str) -> Figure:
    """A number that should be 0."""
    return Figure(name, number, str(number), hint if number else "")


def _of_messages(session: Session) -> list[Figure]:
    letters = dead_letters.count_open_by_topic(session)
    words = ", ".join(f"{number} from {topic}" for topic, number in letters.items()) or "0"
    return [
        _outbox(session),
        _relay(session),
        Figure("dead letters", letters, words, "dead-letters list" if letters else ""),
    ]


def _outbox(session: Session) -> Figure:
    rows, age = outbox.backlog(session)
    topics = [dict(row._mapping) for row in session.execute(_BY_TOPIC)]
    value = {
        "rows": rows,
        "age_s": round(age.total_seconds(), 3),
        "topics": [
            {
                "topic": row["topic"],
                "rows": row["rows"],
                "keys": row["keys"],
                "age_s": round(row["age"].total_seconds(), 3),
            }
            for row in topics
        ],
    }
    words = f"{rows} rows" + (f", the oldest for {duration(age)}" if rows else "")
    if age > OLD_AFTER:
        words += ": " + ", ".join(
            f"{row['topic']} {row['rows']} of {row['keys']} keys, {duration(row['age'])}"
            for row in topics
        )
    return Figure("outbox", value, words, OLD_OUTBOX if age > OLD_AFTER else "")


def _relay(session: Session) -> Figure:
    leader = session.execute(_LEADER).one_or_none()
    if leader is None:
        return Figure("relay", None, "none leads: nothing is published", OLD_OUTBOX)
    value = {"pid": leader.pid, "application": leader.application_name}
    return Figure(
        "relay", value, f"{leader.application_name} leads (its connection: pid {leader.pid})"
    )


def _lag(context: Context, topics: Sequence[str]) -> Figure:
    lag = kafka.group_lag(
        context.kafka_settings,
        group=context.service,
        topics=topics,
        client_id=f"{context.service}-operations",
    )
    return lag_figure(lag.behind, lag.members)


def lag_figure(behind: Mapping[str, int], members: int) -> Figure:
    total = sum(behind.values())
    topics = ", ".join(f"{topic} {number}" for topic, number in behind.items() if number)
    words = f"{total} messages" + (f" ({topics})" if topics else "")
    words += f", {members} consumers" if members != 1 else ", 1 consumer"
    value = {"messages": total, "topics": dict(behind), "consumers": members}
    worrying = members == 0 or total >= MUCH_LAG
    return Figure("lag", value, words, LAG if worrying else "")
