"""What the machine allows: the same rows by pgbench, the broker's round trip, an empty app that answers the same.

`scripts/bench --floor` measures it in the same run as the platform, since the machine's speed drifts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.load.floor import broker, http, rows
from tests.load.platform import BenchPlatform


@dataclass(frozen=True)
class Floor:
    """Each with nothing else running."""

    rows: rows.RowsFloor
    broker: broker.BrokerFloor
    http: http.HttpFloor


def measure(platform: BenchPlatform, say: Callable[[str], None]) -> Floor:
    """Of a platform at rest; its services are stopped for it and stay so. Its databases get other rows."""
    answer = http.a_real_answer(platform)
    platform.stop_services()
    say("floor: the same rows by pgbench")
    of_rows = rows.measure(platform)
    say("floor: the broker's round trip")
    of_broker = broker.measure(platform)
    say("floor: an empty app that answers the same")
    of_http = http.measure(platform, answer)
    return Floor(of_rows, of_broker, of_http)
