"""scripts/ops: sends each operators' command to the service that it is about, whatever the platform runs in.

The work is done by the services' own `operations` modules, in a process with the service's settings: natively, or
in a container of its worker's image, where the same command is called ecom-ops.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from getpass import getuser

from ecom_local.errors import LocalError
from ecom_local.instance import Instance
from ecom_local.parts import SERVICES
from ecom_local.platform import Command
from ecom_local.running import platform

CALLED = "scripts/ops"
DONE, COULD_NOT_LOOK = 0, 2


@dataclass(frozen=True)
class Route:
    """Which services a command is for, and what it does."""

    services: Sequence[str]
    summary: str
    settles: bool = False
    """It wants an actor."""


ROUTES = {
    "glance": Route(SERVICES, "outbox, relay, dead letters, lag, and what waits for somebody"),
    "stuck": Route(["order"], "the orders that do not get on, and why"),
    "show": Route(["order"], "one order: what it waits for, and its timeline"),
    "retry": Route(["order"], "ask again for all that an order waits for", settles=True),
    "lift": Route(["order"], "lift the flag of an order", settles=True),
    "cancel": Route(["order"], "cancel an order as operator", settles=True),
    "resolve": Route(["order"], "mark a failed refund as settled by other means", settles=True),
    "payments": Route(["payment"], "unknown payments; refunds under way or failed"),
    "dead-letters list": Route(SERVICES, "the messages that could not be handled"),
    "dead-letters show": Route(SERVICES, "one whole: original bytes, error, stack"),
    "dead-letters redrive": Route(SERVICES, "send letters to their topic again", settles=True),
    "dead-letters discard": Route(SERVICES, "put letters aside that nobody needs", settles=True),
    "republish catalogue": Route(["inventory"], "publish items again, all or some"),
    "republish orders": Route(["order"], "publish what became of orders again"),
}
"""Every command; its options are the services' business."""

_LETTER = re.compile(rf"({'|'.join(SERVICES)})/\d+")
_WIDTH = max(map(len, ROUTES))
HELP = "\n".join(
    [
        f"usage: {CALLED} COMMAND [ARGUMENT...]      {CALLED} COMMAND --help says more",
        "",
        "Look after the platform while it runs, natively or in containers. docs/runbook says what to do when.",
        "",
        *(f"  {name:<{_WIDTH}}  {route.summary}" for name, route in ROUTES.items()),
        "",
        "Dead letters are named as order/7. --service order|inventory|payment keeps `glance` and the commands of",
        "dead letters to one service; with --all it has to be said.",
        "What changes something takes --reason, and --actor (default: who you are logged in as).",
        "",
        "exit codes: 0 done, or nothing to do; 1 refused or failed, at least in part; 2 bad usage, or could not look",
    ]
)


class UsageError(LocalError):
    """The command line is not one."""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return DONE if arguments else COULD_NOT_LOOK
    try:
        services, command = route(arguments)
        return run(_commands(command), services)
    except LocalError as error:
        print(f"{CALLED}: {error}", file=sys.stderr)
        return COULD_NOT_LOOK
    except KeyboardInterrupt:
        return 130


def route(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The services that a command line is for, and the command line that they get."""
    name = next((n for n in ROUTES if list(arguments[: len(n.split())]) == n.split()), None)
    if name is None:
        groups = {n.split()[0] for n in ROUTES if " " in n}
        said = " ".join(arguments[: 2 if arguments[0] in groups else 1])
        raise UsageError(f"there is no command {said!r}; see {CALLED} --help")
    found = ROUTES[name]
    command, named = _without_service(arguments)
    services = list(found.services)
    if len(services) > 1:
        services = _chosen(name, services, command, named)
    elif named not in (None, services[0]):
        raise UsageError(f"{name} is a command of the {services[0]} service")
    if found.settles and not any(a.split("=")[0] == "--actor" for a in command):
        command += ["--actor", os.environ.get("SUDO_USER") or getuser()]
    return services, command


def _without_service(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    command, named = list(arguments), None
    for at, word in enumerate(command):
        if word == "--service" or word.startswith("--service="):
            _, _, named = word.partition("=")
            named = named or "".join(command[at + 1 : at + 2])
            del command[at : at + (1 if "=" in word else 2)]
            if named not in SERVICES:
                raise UsageError(f"--service: one of {', '.join(SERVICES)}")
            break
    return command, named


def _chosen(
    name: str, services: Sequence[str], command: Sequence[str], named: str | None
) -> list[str]:
    """One service, where it is said or the letters' names say so; else all that can be asked together."""
    letters = {match[1] for word in command if (match := _LETTER.fullmatch(word))}
    wanted = sorted(letters | ({named} if named else set()))
    if len(wanted) > 1:
        raise UsageError("one service at a time: the letters are of " + " and ".join(wanted))
    if wanted:
        return wanted
    if {"-h", "--help"} & set(command):
        return list(services[:1])
    if name in ("glance", "dead-letters list"):
        return list(services)
    raise UsageError(f"{name}: whose? Name letters as order/7, or say --service")


def run(command_of: Callable[[str], Command], services: Sequence[str]) -> int:
    """Run the command of each service; the worst exit code."""
    if len(services) == 1:
        return _process(command_of(services[0]), capture=False).returncode
    with ThreadPoolExecutor(len(services)) as pool:
        results = list(pool.map(lambda s: _process(command_of(s), capture=True), services))
    for result in results:
        sys.stderr.write(result.stderr)
    as_json = "--json" in command_of(services[0]).arguments
    print(joined(services, [result.stdout for result in results], as_json=as_json))
    return max(result.returncode for result in results)


def _commands(arguments: Sequence[str]) -> Callable[[str], Command]:
    """Service → what is to be run for it."""

    def module(service: str) -> list[str]:
        return ["-m", f"{service}_service.operations", "--called", CALLED, *arguments]

    if {"-h", "--help"} & set(arguments):
        # Needs nothing that runs.
        return lambda service: Command([sys.executable, *module(service)])
    found = platform()
    if isinstance(found, Instance) and not found.is_running():
        raise LocalError("nothing runs here; start it with scripts/up")
    return lambda service: found.service_command(service, *module(service))


def _process(command: Command, *, capture: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command.arguments,
        env=command.whole_environment,
        stdin=subprocess.DEVNULL,
        capture_output=capture,
        text=True,
        check=False,
    )


def joined(services: Sequence[str], said: Sequence[str], *, as_json: bool) -> str:
    """One document or one text of several: lists after each other, objects by service."""
    if not as_json:
        return "\n".join(text.rstrip() for text in said if text.strip())
    documents = {
        s: json.loads(text) for s, text in zip(services, said, strict=True) if text.strip()
    }
    if all(isinstance(document, list) for document in documents.values()):
        return json.dumps([item for document in documents.values() for item in document], indent=2)
    return json.dumps(documents, indent=2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
