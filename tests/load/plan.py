"""What the bench tells its load generator, on its input, and what it is told, in a file: both as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, Self

import orjson

MEASURING: Final = b"measuring"
"""The generator says this when the warm-up is over."""
ENDED: Final = b"ended"
"""... and this when the measured time is over; then it finishes what is under way, and writes its samples."""


@dataclass(frozen=True)
class Plan:
    """One run of the load generator. Times in seconds."""

    scenario: str
    urls: list[str]
    """Of the order service's api processes; clients are spread over them."""
    tokens: list[str]
    """One for each customer."""
    skus: list[str]
    hot_skus: list[str]
    """Each is wanted by `HOT_BUYERS` orders, one SKU after the other."""
    clients: int
    warm_up_s: float
    seconds: float
    seed: int
    rate: float | None = None
    """Orders a second, whatever the platform does (open loop); None: each client begins when it has its answer."""

    def dump(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def load(cls, text: bytes) -> Self:
        return cls(**orjson.loads(text))


class Sample(NamedTuple):
    """One request as its client saw it."""

    kind: str
    """post, replay or get."""
    begin: float
    """Seconds since the epoch; in an open loop when it was due."""
    seconds: float
    status: int
    order_id: str
    """Of a post that was answered with one, else empty."""

    @property
    def end(self) -> float:
        return self.begin + self.seconds


def dump_samples(samples: Sequence[Sample]) -> bytes:
    return orjson.dumps([tuple(sample) for sample in samples])


def load_samples(text: bytes) -> list[Sample]:
    found: list[list[Any]] = orjson.loads(text)
    return [Sample(*values) for values in found]
