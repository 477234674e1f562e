"""supervisord with a quicker step: what `up` runs in the background.

Supervisor notices the end of a process, and starts it again, in a loop that otherwise sleeps for up to a
second, twice. At a fifth of that a killed part is back in half a second instead of two, for 0.1 % of a core.
"""

from __future__ import annotations

from typing import Any

from supervisor import poller, supervisord

_STEP_S = 0.1


class _QuickPoller(poller.Poller):  # type: ignore[misc]  # supervisor has no type hints
    def poll(self, timeout: float) -> Any:
        return super().poll(min(timeout, _STEP_S))


def main() -> None:
    poller.Poller = _QuickPoller
    supervisord.main()


if __name__ == "__main__":
    main()
