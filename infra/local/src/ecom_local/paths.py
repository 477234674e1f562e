"""Where things lie: the repository, what was downloaded for it, and the state of one instance.

Downloads (jars, class-data archives, the `flyway` command) belong to the checkout and are shared by every
instance of it; everything else belongs to one instance, so that tests run theirs beside a developer's
platform without touching it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ecom_local.errors import LocalError

REPOSITORY = Path(__file__).resolve().parents[4]
DOWNLOADS = REPOSITORY / ".local"
JARS = DOWNLOADS / "jars"
FLYWAY_COMMAND = DOWNLOADS / "bin" / "flyway"

POSTGRES_SETTINGS = REPOSITORY / "infra" / "postgres" / "postgresql.conf"
POSTGRES_ROLES = REPOSITORY / "infra" / "postgres" / "roles.sql"
KAFKA_SETTINGS = REPOSITORY / "infra" / "kafka" / "server.properties"
KAFKA_LOGGING = REPOSITORY / "infra" / "kafka" / "log4j2.properties"

# A unix socket's path may be 108 bytes on Linux and 104 on macOS, and supervisor first binds to the
# path with its pid appended.
_SOCKET_PATH_LIMIT = 90


def default_home() -> Path:
    """The instance the scripts work on: ECOM_HOME, or `.local` in the checkout."""
    return Path(os.environ.get("ECOM_HOME") or DOWNLOADS).resolve()


@dataclass(frozen=True)
class Layout:
    """The files of one instance, all below its home."""

    home: Path

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def secrets(self) -> Path:
        return self.home / "secrets"

    @property
    def postgres(self) -> Path:
        return self.home / "postgres"

    @property
    def kafka(self) -> Path:
        return self.home / "kafka"

    @property
    def config(self) -> Path:
        """Supervisor's configuration; holds passwords, so 0600."""
        return self.run / "supervisord.conf"

    @property
    def control_socket(self) -> Path:
        """Supervisor's socket: in the home, or in a short private folder if the home's path is too long."""
        path = self.run / "control.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
            return path
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"ecom-{os.getuid()}-{digest}" / "control.sock"

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def create(self) -> None:
        for folder in (self.home, self.logs, self.postgres, self.kafka):
            folder.mkdir(parents=True, exist_ok=True)
        for private in (self.run, self.secrets, self.keys, self.control_socket.parent):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
            if private.stat().st_uid != os.getuid():
                raise LocalError(
                    f"{private} belongs to somebody else; remove it, or run as its owner."
                )
