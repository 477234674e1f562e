"""Safeguards that can be left out are there unless they are, and asking for them is harmless."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ecom_common.rows import locking
from ecom_common.safeguards import SAFEGUARDS, is_off, switch_off
from inventory_service.models import StockLevel

from tests.checks.files import REPOSITORY


@contextmanager
def without(name: str) -> Iterator[None]:
    switch_off([name])
    try:
        yield
    finally:
        switch_off([])


def a_level() -> StockLevel:
    return StockLevel(sku="MUG", on_hand=3, reserved=2, version=1)


def test_nothing_is_left_out_unless_it_is_asked_for() -> None:
    assert not any(is_off(name) for name in SAFEGUARDS)


def test_rows_are_locked_unless_row_locks_are_left_out() -> None:
    assert locking("FOR UPDATE SKIP LOCKED") == "FOR UPDATE SKIP LOCKED"
    with without("row-locks"):
        assert locking("FOR UPDATE SKIP LOCKED") == ""


def test_no_more_is_reserved_than_there_is_unless_the_check_is_left_out() -> None:
    assert a_level().covers(1)
    assert not a_level().covers(2)
    with pytest.raises(AssertionError):
        a_level().reserve(2)
    with without("oversell-check"):
        level = a_level()
        level.reserve(2)
    assert level.reserved == 4


@pytest.mark.parametrize("name", ["row-locks", "relay-lock", "oversell-check"])
def test_what_can_be_left_out_is_asked_for_somewhere(name: str) -> None:
    sources = [
        *REPOSITORY.glob("libs/common/src/**/*.py"),
        *REPOSITORY.glob("services/*/src/**/*.py"),
    ]
    assert any(f'is_off("{name}")' in path.read_text() for path in sources)
