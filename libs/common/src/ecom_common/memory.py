"""How often Python looks for garbage in cycles."""

import gc
from typing import Final

ALLOCATIONS: Final = 50_000
"""New objects, less those that are gone, before a look; by default it is 700, which a batch comes to many times."""


def collect_seldom() -> None:
    """Call it once, when a process has imported and built what it keeps.

    Next to nothing of what a batch makes is cyclic: it is freed as it goes out of use, without the collector. What was
    imported and built stays, and need not be walked through any more.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, 20, 20)
