"""An operator at the command line of one service, on a database of a test's own."""

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any, Final

import pytest

ACTOR: Final = ("--actor", "olga")


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Operator:
    """Runs a service's `operations.main` in this process, with the environment that it would have."""

    main: Callable[[Sequence[str]], int]
    environment: dict[str, str]

    @classmethod
    def of(
        cls, main: Callable[[Sequence[str]], int], *, database_url: str, kafka: str, **more: str
    ) -> "Operator":
        environment = {
            "ENVIRONMENT": "development",
            "DATABASE_URL": database_url,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "JWT_JWKS": "none",
            "JWT_ISSUER": "tests",
            "JWT_AUDIENCE": "tests",
            "HTTP_PORT": "1",
            "PROVIDER_DATABASE_URL": database_url,
        }
        return cls(main, environment | more)

    def run(self, *arguments: str, **environment: str) -> Said:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name in ("SUDO_USER", "LOGNAME", "USER"):
                patch.delenv(name, raising=False)
            for name, value in (self.environment | environment).items():
                patch.setenv(name, value)
            try:
                code = self.main(arguments)
            except SystemExit as stop:
                code = int(stop.code or 0)
        return Said(code, out.getvalue(), err.getvalue())

    def ask(self, *arguments: str) -> Any:
        """What a command that succeeds says with --json."""
        said = self.run(*arguments, "--json")
        assert said.code == 0, said
        return said.document

    def do(self, *arguments: str, reason: str = "a test") -> Said:
        """A command that changes something."""
        return self.run(*arguments, *ACTOR, "--reason", reason)
