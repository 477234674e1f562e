"""The rows of an order, written by pgbench from prepared statements, in the transactions that the services make.

Each database by itself, with as many connections as write to it at once; together they take the sum of their
times, since all of them share the processors.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ecom_local.parts import DATABASES

from tests.load.platform import BenchPlatform

SECONDS: Final = 5
BATCHES: Final = (1, 50)
"""Orders in a transaction: by itself, and as under load."""
CONNECTIONS: Final[Mapping[str, int]] = {"order": 2, "inventory": 1, "payment": 2, "provider": 2}
_RATE: Final = re.compile(r"tps = ([0-9.]+)")
_SCRIPTS: Final = Path(__file__).parent


@dataclass(frozen=True)
class RowsFloor:
    """Orders a second: by the number of orders in a transaction."""

    all_databases: Mapping[int, float]
    by_database: Mapping[str, Mapping[int, float]]


def measure(platform: BenchPlatform) -> RowsFloor:
    platform.sql("inventorydb", (_SCRIPTS / "goods.sql").read_text())
    found = {
        name: {batch: _orders_a_second(platform, name, batch) for batch in BATCHES}
        for name in CONNECTIONS
    }
    together = {batch: 1 / sum(1 / rates[batch] for rates in found.values()) for batch in BATCHES}
    return RowsFloor(together, found)


def _orders_a_second(platform: BenchPlatform, name: str, batch: int) -> float:
    database = DATABASES[name]
    command = platform.instance.postgres_command(
        database,
        "pgbench",
        "--no-vacuum",
        "--protocol=prepared",
        f"--file={_SCRIPTS / name}.sql",
        f"--client={CONNECTIONS[name]}",
        f"--jobs={min(2, CONNECTIONS[name])}",
        f"--time={SECONDS}",
        f"--define=n={batch}",
        # Beyond what an earlier round has used.
        f"--define=i={_STARTS[batch]}",
        database.name,
    )
    said = subprocess.run(
        command.arguments,
        env={**os.environ, **command.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    rate = _RATE.search(said.stdout)
    if said.returncode != 0 or rate is None:
        raise RuntimeError(f"pgbench {name}: {said.stdout}{said.stderr}")
    return float(rate[1]) * batch


_STARTS: Final = {batch: number * 100_000 for number, batch in enumerate(BATCHES)}
