"""What happened in a run, line by line: to be replayed, compared, and read when something is wrong."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.simulation.clock import Clock


@dataclass
class Trace:
    """The lines of a run, and a digest of them: two runs of one seed have the same."""

    clock: Clock
    say: Callable[[str], object] | None = None
    """Called with every line, for those who watch."""
    lines: list[str] = field(default_factory=list)
    steps: int = 0
    actors: list[str] = field(default_factory=list)
    """Who acts; the last one does so inside a pause of the one before."""

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256()

    def note(self, text: str) -> None:
        actor = " › ".join(self.actors) or "world"
        self.add(f"{self.steps:6} {self.clock.passed_s:10.3f} {actor:<18} {text}")

    def add(self, line: str) -> None:
        self.lines.append(line)
        self._digest.update(line.encode())
        self._digest.update(b"\n")
        if self.say is not None:
            self.say(line)

    def digest(self, tables: Iterable[str] = ()) -> str:
        """Of everything noted, and of what is left in the tables."""
        whole = self._digest.copy()
        for row in tables:
            whole.update(row.encode())
        return whole.hexdigest()

    def about(self, what: str) -> list[str]:
        """The lines that name it, as an order's id."""
        return [line for line in self.lines if what in line]
