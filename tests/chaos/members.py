"""Workers beside the supervised ones, and how soon a consumer group notices that one is gone."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from ecom_local import leftovers
from ecom_local.instance import Instance
from ecom_local.parts import SERVICES
from ecom_local.ports import HOST, Ports

ADMIN_TIMEOUT_S: Final = 15
HEARTBEAT_MS: Final = 500
STOP_LIMIT_S: Final = 30


@dataclass
class ExtraWorker:
    """One more worker of a service, our own child. It carries the instance's mark, so that it never outlives it."""

    process: subprocess.Popen[bytes]
    url: str

    @classmethod
    def start(cls, instance: Instance, service: str, name: str, *, crash_folder: Path) -> Self:
        command = instance.service_command(service, "-m", f"{service}_service.worker")
        port = Ports.free().order_worker
        environment = command.whole_environment | {
            "HTTP_PORT": str(port),
            "CRASH_FOLDER": str(crash_folder),
            leftovers.MARKER: str(instance.layout.home),
        }
        with instance.layout.log(name).open("ab") as log:
            process = subprocess.Popen(
                command.arguments,
                env=environment,
                cwd=instance.layout.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return cls(process, f"http://{HOST}:{port}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self, sign: str) -> None:
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGCONT)
            os.kill(self.pid, signal.Signals[f"SIG{sign}"])
            self.process.wait(STOP_LIMIT_S)


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
