"""How soon a consumer group notices that a worker is gone."""

from __future__ import annotations

from typing import Final

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from ecom_local.parts import SERVICES

ADMIN_TIMEOUT_S: Final = 15
HEARTBEAT_MS: Final = 500


def shorten_sessions(bootstrap: str, seconds: float) -> None:
    """Have the broker give up silent workers of our services after so long."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    options = {
        "consumer.session.timeout.ms": str(round(seconds * 1000)),
        "consumer.heartbeat.interval.ms": str(HEARTBEAT_MS),
    }
    resources = [
        ConfigResource(
            ResourceType.GROUP,
            f"{service}_service",
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in options.items()
            ],
        )
        for service in SERVICES
    ]
    for future in admin.incremental_alter_configs(resources).values():
        future.result(ADMIN_TIMEOUT_S)
