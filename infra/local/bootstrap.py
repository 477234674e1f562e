"""Make .venv and fill it: what scripts/setup runs, with the machine's own Python and nothing but its library.

    bootstrap.py [--dev] RUN_KEY DEV_KEY

The keys are digests of everything the environment is made from; they are written into it at the very end, and
scripts/setup does nothing as long as they fit. An environment in which an installation was interrupted is
thrown away: pip cannot tell a package that it had half unpacked from a whole one, and its own cache of
downloads makes starting over quick.
"""

from __future__ import annotations

import fcntl
import importlib.util
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = REPOSITORY / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STATE = REPOSITORY / ".local"
LOG = STATE / "logs" / "setup.log"
INSTALLING = ENVIRONMENT / ".installing"

REQUIREMENTS = {
    "run": REPOSITORY / "infra" / "local" / "requirements.txt",
    "dev": REPOSITORY / "tests" / "requirements.txt",
}
OWN_PACKAGES = [
    "libs/contracts",
    "libs/common",
    "libs/audit",
    "services/order_service",
    "services/inventory_service",
    "services/payment_service",
    "infra/local",
]
QUIET_S = 5
"""Without a terminal: how often a line tells how far the installation is."""


def main(arguments: Sequence[str]) -> int:
    dev = "--dev" in arguments
    run_key, dev_key = [argument for argument in arguments if argument != "--dev"]
    keys = {"run": run_key, "dev": dev_key} if dev else {"run": run_key}
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with (STATE / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second run waits, and then finds it done
        if all(read(stamp(kind)) == key for kind, key in keys.items()):
            return 0
        begin = time.monotonic()
        make_environment()
        install(REQUIREMENTS["dev" if dev else "run"], lock.fileno())
        downloads = subprocess.run(
            [PYTHON, "-m", "ecom_local.downloads"], pass_fds=[lock.fileno()], check=False
        )
        if downloads.returncode != 0:
            return downloads.returncode
        for kind, key in keys.items():
            stamp(kind).write_text(key + "\n")
        print(f"set up in {time.monotonic() - begin:.0f} s", flush=True)
    return 0


def stamp(kind: str) -> Path:
    return ENVIRONMENT / f".ready-{kind}"


def read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def make_environment() -> None:
    if INSTALLING.exists():
        print("the last installation was interrupted: making .venv anew", flush=True)
        shutil.rmtree(ENVIRONMENT)
    for kind in REQUIREMENTS:
        stamp(kind).unlink(missing_ok=True)
    if works(PYTHON):
        return
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    with_pip = importlib.util.find_spec("ensurepip") is not None
    if not with_pip and importlib.util.find_spec("pip") is None:
        fail(
            f"{sys.executable} has neither ensurepip nor pip.\n"
            "Install one of them (on Debian and Ubuntu: apt install python3-venv), then run this again."
        )
    print(f"making .venv with Python {sys.version.split()[0]}", flush=True)
    venv.create(ENVIRONMENT, with_pip=with_pip, symlinks=True)


def works(python: Path) -> bool:
    return python.exists() and subprocess.run([python, "-c", ""], check=False).returncode == 0


def install(requirements: Path, lock: int) -> None:
    """pip holds the lock too: should we be killed, the next run waits for it to end."""
    INSTALLING.touch()
    total = len(re.findall(r"^[\w.-]+==", requirements.read_text(), re.MULTILINE))
    with LOG.open("w") as log:
        pip("packages", total, log, lock, "--require-hashes", "-r", str(requirements))
        own = [word for package in OWN_PACKAGES for word in ("-e", str(REPOSITORY / package))]
        pip("own packages", len(OWN_PACKAGES), log, lock, "--no-deps", "--no-build-isolation", *own)
    INSTALLING.unlink()


def pip(what: str, total: int, log: IO[str], lock: int, *arguments: str) -> None:
    options = [
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar=off",
        "--no-warn-script-location",
    ]
    command = [*pip_command(), "install", *options, *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=[lock]
    )
    assert process.stdout is not None
    progress = Progress(what, total)
    for line in process.stdout:
        log.write(line)
        progress.see(line)
    progress.end()
    if process.wait() != 0:
        log.flush()
        tail = "\n".join(LOG.read_text().splitlines()[-20:])
        fail(
            f"pip failed; the end of {LOG.relative_to(REPOSITORY)}:\n{tail}\nCorrect that and run this again."
        )


def pip_command() -> list[str]:
    """The environment's own pip, or the outer one working on it, where Debian left out ensurepip."""
    own = subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True, check=False)
    if own.returncode == 0:
        return [str(PYTHON), "-m", "pip"]
    return [sys.executable, "-m", "pip", "--python", str(PYTHON)]


class Progress:
    """How far pip is: one line, rewritten on a terminal and repeated now and then elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.terminal = sys.stdout.isatty()
        self.begin = self.shown = time.monotonic()

    def see(self, line: str) -> None:
        words = line.split()
        if words[:1] in (["Collecting"], ["Obtaining"]) or words[:2] == ["Requirement", "already"]:
            self.done += 1
            self.show(
                f"{self.what} {min(self.done, self.total)}/{self.total} {words[1].partition('=')[0]}"
            )
        elif words[:1] == ["Installing"]:
            self.show(f"{self.what}: unpacking", always=True)

    def show(self, text: str, always: bool = False) -> None:
        now = time.monotonic()
        if self.terminal:
            print(f"\r\033[K{text[:79]}", end="", flush=True)
        elif always or now - self.shown >= QUIET_S:
            self.shown = now
            print(text, flush=True)

    def end(self) -> None:
        begin = "\r\033[K" if self.terminal else ""
        print(f"{begin}{self.what}: {time.monotonic() - self.begin:.1f} s", flush=True)


def fail(message: str) -> None:
    print(f"setup: {message}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
