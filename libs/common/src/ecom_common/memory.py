"""How often Python looks for garbage in cycles."""

import gc
from typing import Final

ALLOCATIONS: Final = 50_000
"""New objects, less those that are gone, before a look: some batches' worth, and not 700 as by default."""


def collect_seldom() -> None:
    """Call it once, when a process has imported and built what it keeps.

    What a batch makes is freed as it goes out of use; nothing of it is cyclic. With the default the collector would
    walk through it dozens of times meanwhile, and now and then through everything that was imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, 20, 20)
