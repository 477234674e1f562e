"""The whole platform, running: six processes on the instance's Postgres and Kafka."""

from collections.abc import Iterator

import pytest
from ecom_local.instance import Instance

from tests.support.databases import Databases
from tests.support.shop import Shop


@pytest.fixture(scope="session")
def shop(instance: Instance, databases: Databases) -> Iterator[Shop]:
    # `databases` first: templates are copied while nobody is connected to the originals.
    assert databases.instance is instance
    instance.start_all()
    shop = Shop(instance)
    yield shop
    shop.http.close()
