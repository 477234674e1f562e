"""Which platform a script works on: the native one of its home, or the containers of the checkout."""

from __future__ import annotations

from collections.abc import Callable

from ecom_local.containers import Containers
from ecom_local.instance import Instance
from ecom_local.paths import default_home


def _silent(_: str) -> None:
    pass


def platform(say: Callable[[str], None] = _silent) -> Instance | Containers:
    """What runs; the native one if nothing does."""
    instance = Instance(default_home(), say=say)
    if not instance.is_running() and (found := Containers()).find():
        return found
    return instance
