"""Processes of a service beside its supervised ones: more workers, more apis."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Self

from ecom_local import leftovers
from ecom_local.instance import Instance
from ecom_local.ports import HOST, Ports

STOP_LIMIT_S: Final = 30


@dataclass
class ExtraProcess:
    """One more process of a service, our own child. It carries the instance's mark, so that it never outlives it."""

    process: subprocess.Popen[bytes]
    url: str

    @classmethod
    def start(
        cls,
        instance: Instance,
        service: str,
        kind: Literal["app", "worker"],
        *,
        name: str,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Start it; it is not ready yet. `environment` comes on top of what the service's worker has."""
        command = instance.service_command(service, "-m", f"{service}_service.{kind}")
        port = Ports.free().order_worker
        with instance.layout.log(name).open("ab") as log:
            process = subprocess.Popen(
                command.arguments,
                env={
                    **command.whole_environment,
                    "HTTP_PORT": str(port),
                    leftovers.MARKER: str(instance.layout.home),
                    **(environment or {}),
                },
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
