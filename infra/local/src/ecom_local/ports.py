"""Which port each part listens on, all of them on 127.0.0.1."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from ecom_local.errors import LocalError

HOST = "127.0.0.1"

# Below the range that systems hand out to outgoing connections: such a connection could take a port
# between the moment it was found free and the moment the part binds it.
_FREE_RANGE = range(20000, 30000)


@dataclass(frozen=True)
class Ports:
    postgres: int = 5433
    kafka: int = 9092
    kafka_controller: int = 19093
    order: int = 8001
    inventory: int = 8002
    payment: int = 8003
    order_worker: int = 8011
    inventory_worker: int = 8012
    payment_worker: int = 8013

    @classmethod
    def free(cls) -> Ports:
        """Nine distinct ports nobody listens on now, for an instance beside others."""
        candidates = random.sample(_FREE_RANGE, len(_FREE_RANGE))
        found = (port for port in candidates if is_free(port))
        return cls(**{field.name: next(found) for field in fields(cls)})

    def with_environment(self, environment: Mapping[str, str] = os.environ) -> Ports:
        """Changed by ECOM_<NAME>_PORT, as ECOM_ORDER_PORT or ECOM_KAFKA_CONTROLLER_PORT."""
        changes = {}
        for field in fields(self):
            value = environment.get(variable(field.name))
            if value:
                changes[field.name] = _port(variable(field.name), value)
        return replace(self, **changes)

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def variable(name: str) -> str:
    return f"ECOM_{name.upper()}_PORT"


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(1)
        except OSError:
            return False
    return True


def _port(name: str, value: str) -> int:
    if not value.isdigit() or not 1 <= int(value) <= 65535:
        raise LocalError(f"{name}={value!r} is not a port; give a number from 1 to 65535.")
    return int(value)
