"""Which rare paths a run has met: a simulation that never goes there proves nothing about them."""

from collections import Counter
from typing import Any, Final

import orjson
from prometheus_client import REGISTRY
from sqlalchemy import Connection, text

from tests.simulation.world import World

PATHS: Final = {
    "duplicate dropped": "the inbox knew a message",
    "reservation tombstone": "a reserve came after its release, and held nothing",
    "payment tombstone": "a charge came after its cancel, and took nothing",
    "late capture refunded": "the provider captured although the cancel had come, and gave it back",
    "commit lost, not done": "a connection was lost before its COMMIT, and the unit was run again",
    "commit lost, done": "a connection was lost after its COMMIT, and the unit found what it had done",
    "unknown → captured": "an outcome that was unknown turned out as captured",
    "unknown → declined": "an outcome that was unknown turned out as declined",
    "batch replayed singly": "one member of a batch failed, and only that one",
    "answered from stored state": "a command that came again was answered with what there was",
    "key replayed": "a request that came again was answered with the order it had made",
    "checkout found": "a second click with another key found the order of the first",
    "dead letter": "a message could not be handled",
    "reservation expired": "a reservation released itself",
    "timed out": "an order was given up at its deadline",
    "process died": "a process died between two statements",
    "asked twice": "the lease of a job ended, and another asked with the same key",
    "restocked and refunded": "a confirmed order was cancelled",
}
"""Every path, and what happens there."""


class Meter:
    """Counts from its making on, since the metrics are the whole process'."""

    def __init__(self) -> None:
        self._before = _metrics()

    def paths(self, world: World) -> Counter[str]:
        """How often the run has met each of `PATHS`."""
        met: Counter[str] = Counter()
        now = _metrics()
        for name in now:
            met[name] = round(now[name] - self._before[name])
        met.update(_lost_commits(world))
        met.update(_from_messages(world))
        met.update(_from_lines(world))
        engines = world.around.laboratory.auditing(world.clock)
        for service, queries in _QUERIES.items():
            with engines[service].connect() as connection:
                met.update({name: _count(connection, sql) for name, sql in queries.items()})
        assert met.keys() <= PATHS.keys(), met.keys() - PATHS.keys()
        return +met


def _metrics() -> dict[str, float]:
    sums = {"duplicate dropped": 0.0, "batch replayed singly": 0.0, "dead letter": 0.0}
    for family in REGISTRY.collect():
        for sample in family.samples:
            if sample.name == "ecom_messages_received_total":
                outcome = sample.labels["outcome"]
                sums["duplicate dropped"] += sample.value * (outcome == "duplicate")
                sums["dead letter"] += sample.value * (outcome == "dead_letter")
            elif sample.name == "ecom_batches_replayed_total":
                sums["batch replayed singly"] += sample.value
    return sums


def _lost_commits(world: World) -> Counter[str]:
    kinds = Counter(when for _, when in world.around.lost_commits)
    return Counter({"commit lost, not done": kinds["before"], "commit lost, done": kinds["after"]})


def _from_messages(world: World) -> Counter[str]:
    met: Counter[str] = Counter()
    commands: dict[str, str] = {}
    answered: dict[tuple[Any, ...], str] = {}
    for sent in world.broker.ever_sent:
        if sent.key == "poison" or sent.topic.endswith(".dead-letter"):
            continue
        envelope = orjson.loads(sent.value)
        commands[envelope["id"]] = envelope["type"]
        asked = commands.get(envelope.get("causationid", ""))
        data = envelope["data"]
        if envelope["type"] not in ("reservation.changed.v1", "payment.changed.v1") or not asked:
            continue
        first = data["version"] == 1
        if (asked, data["state"], first) == ("stock.reserve.v1", "released", True):
            met["reservation tombstone"] += 1
        if (asked, data["state"], first) == ("payment.charge.v1", "cancelled", True):
            met["payment tombstone"] += 1
        answer = (data["order_id"], asked, data["state"], data["version"])
        if answered.setdefault(answer, envelope["causationid"]) != envelope["causationid"]:
            met["answered from stored state"] += 1
    return met


def _from_lines(world: World) -> Counter[str]:
    words = {
        "hears again: ": "key replayed",
        "hears found: ": "checkout found",
        " dies at ": "process died",
    }
    return Counter(
        path for line in world.trace.lines for word, path in words.items() if word in line
    )


def _count(connection: Connection, sql: str) -> int:
    return int(connection.scalar(text(sql)) or 0)


_BECAME: Final = """
    SELECT count(*) FROM (SELECT payment, lag(payment) OVER (PARTITION BY order_id ORDER BY version) AS before
                          FROM order_history) h WHERE before = 'unknown' AND payment = '{state}'"""
_QUERIES: Final = {
    "order": {
        "unknown → captured": _BECAME.format(state="captured"),
        "unknown → declined": _BECAME.format(state="declined"),
        "timed out": "SELECT count(*) FROM order_history WHERE kind = 'timed_out'",
        "restocked and refunded": """SELECT count(*) FROM orders WHERE status = 'cancelled'
            AND stock = 'restocked' AND payment = 'refunded'""",
        "reservation expired": "SELECT count(*) FROM orders WHERE reason = 'reservation_expired'",
    },
    "payment": {
        "late capture refunded": """SELECT count(*) FROM operations void JOIN payments p ON p.id = payment_id
            WHERE void.kind = 'void' AND last_error = 'captured' AND p.state = 'refunded'""",
        "asked twice": "SELECT count(*) FROM operations WHERE kind = 'charge' AND attempts > 1",
    },
}  # fmt: skip
