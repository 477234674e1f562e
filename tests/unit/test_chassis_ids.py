"""Identifiers: version 7, in order of time, from a source that a simulation can replace."""

import itertools
from uuid import UUID

from ecom_common import ids


def test_ids_are_version_7_uuids_of_the_standard_library() -> None:
    identifier = ids.new_id()
    assert type(identifier) is UUID
    assert identifier.version == 7


def test_ids_of_one_process_are_unique_and_ascend() -> None:
    made = [ids.new_id() for _ in range(5_000)]
    assert made == sorted(set(made))


def test_a_simulation_can_replace_the_source() -> None:
    numbers = itertools.count(1)
    ids.use_id_source(lambda: UUID(int=next(numbers)))
    try:
        assert [ids.new_id().int for _ in range(3)] == [1, 2, 3]
    finally:
        ids.use_id_source(ids.uuid7)
    assert ids.new_id().version == 7
