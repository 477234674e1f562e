"""A laboratory on the platform of the test run."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.simulation.laboratory import Laboratory
from tests.support.databases import Databases


@pytest.fixture(scope="package")
def laboratory(databases: Databases) -> Iterator[Laboratory]:
    with closing(Laboratory(databases)) as laboratory:
        yield laboratory
