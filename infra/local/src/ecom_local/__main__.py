"""The command line behind the scripts: one subcommand each."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ecom_local import (
    backup,
    containers,
    demo,
    experiments,
    facts,
    logs,
    migrations,
    reconcile,
    running,
    status,
)
from ecom_local.containers import Containers
from ecom_local.errors import LocalError
from ecom_local.instance import Instance
from ecom_local.parts import DATABASES, PARTS, SERVICES
from ecom_local.paths import REPOSITORY, default_home
from ecom_local.platform import Platform, Shopfront
from ecom_local.ports import Ports, variable

_PORTS = "\n".join(f"  {variable(name):<28} {port}" for name, port in Ports().to_dict().items())
_SETTINGS = f"""\
environment:
  ECOM_HOME                    where the instance keeps its state (default: .local in the checkout)
{_PORTS}
  LOG_LEVEL                    of the services (default: INFO)
containers read .env; .env.example explains it
"""

_CONTAINERS = "in containers, by docker compose; further options are those of `docker compose up`"

# Makes a subcommand: its name, what it runs, and its help.
_Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]

console = Console(highlight=False, soft_wrap=True)


def up(options: argparse.Namespace) -> int:
    if options.containers:
        return subprocess.run([containers.UP], check=False).returncode
    begin = time.monotonic()
    instance = _instance_to_start()
    if options.part:
        for part in options.part:
            instance.restart(part)
    else:
        _start(instance)
    console.print(f"[green]up[/] after {time.monotonic() - begin:.1f} s")
    _addresses(instance)
    return 0


def down(options: argparse.Namespace) -> int:
    begin = time.monotonic()
    _platform().stop(wipe=options.wipe)
    what = "stopped, and all data deleted" if options.wipe else "stopped"
    console.print(f"{what} after {time.monotonic() - begin:.1f} s")
    return 0


def show_status(options: argparse.Namespace) -> int:
    platform = _platform()
    if isinstance(platform, Instance):
        runs, rows = "native", status.collect(platform)
    else:
        runs, rows = "containers", status.collect_containers(platform)
    if options.json:
        print(json.dumps(status.to_dict(default_home(), rows, runs=runs), indent=2))
    else:
        status.show(rows)
    return 0 if status.healthy(rows) else 1


def show_logs(options: argparse.Namespace) -> int:
    platform = _platform()
    how = {"lines": options.lines, "follow": options.follow, "raw": options.raw}
    if isinstance(platform, Instance):
        logs.show(platform.layout, options.part, **how)
    else:
        logs.show_containers(platform, options.part, **how)
    return 0


def run_demo(options: argparse.Namespace) -> int:
    if options.without:
        return experiments.run(options.without, console)
    if options.containers:
        # They have been started: scripts/demo does that first, without Python.
        return demo.run(Containers(), console)
    instance = _instance_to_start()
    _start(instance)
    return demo.run(instance, console)


def token(options: argparse.Namespace) -> int:
    platform = _platform()
    print(platform.token(sub=options.sub, scope=options.scope, lifetime_s=options.lifetime))
    return 0


def migrate(_: argparse.Namespace) -> int:
    platform = _platform()
    if isinstance(platform, Instance) and platform.problem("postgres") is not None:
        raise LocalError("Postgres does not run; start it with scripts/up.")
    platform.migrate()
    return 0


def back_up(options: argparse.Namespace) -> int:
    backup.back_up(_platform(), options.folder, say=_step)
    return 0


def restore(options: argparse.Namespace) -> int:
    platform = _platform()
    backup.restore(platform, options.folder, options.database, say=_step)
    return _differences(platform)


def run_reconcile(options: argparse.Namespace) -> int:
    platform = _platform()
    reconcile.reconcile(platform, undo_unknown=options.undo_unknown, say=_step)
    return _differences(platform)


def _differences(platform: Platform) -> int:
    differences = reconcile.settled_differences(platform, say=_step)
    for line in facts.report(differences):
        console.print(line, markup=False)
    return 1 if differences else 0


def new_migration(options: argparse.Namespace) -> int:
    print(migrations.new_migration(options.service, options.name).relative_to(REPOSITORY))
    return 0


def _platform() -> Instance | Containers:
    return running.platform(say=console.print)


def _instance_to_start() -> Instance:
    """A running platform keeps its ports, unless the environment now names others."""
    if Containers().is_running():
        raise LocalError("The platform runs in containers already. Stop them first: scripts/down")
    present = Instance(default_home(), say=console.print)
    base = present.ports if present.is_running() else Ports()
    return Instance(default_home(), ports=base.with_environment(), say=_step)


def _step(text: str) -> None:
    console.print(f"  [dim]·[/] {text}")


def _start(instance: Instance) -> None:
    with console.status("starting"):
        instance.start_all()


def _addresses(platform: Shopfront) -> None:
    for service in SERVICES:
        console.print(f"  {service:<10} {platform.url(service)}/docs")
    console.print("  [dim]scripts/status, scripts/logs -f, scripts/down[/]")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ecom", description="The native runtime of the platform.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            prog=f"scripts/{name}",
            help=text,
            description=text,
            epilog=_SETTINGS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    _running(command)
    _using(command)
    _keeping(command)
    return parser


def _running(command: _Command) -> None:
    """The platform as a whole."""
    sub = command(
        "up", up, "Start the platform and wait until it is ready; harmless if it runs already."
    )
    sub.add_argument("--containers", action="store_true", help=_CONTAINERS)
    sub.add_argument(
        "--restart",
        dest="part",
        nargs="+",
        choices=list(PARTS),
        metavar="PART",
        help="only restart these parts",
    )
    sub = command("down", down, "Stop the platform; nothing is left running.")
    sub.add_argument(
        "--wipe",
        action="store_true",
        help="then delete its data, keys and passwords; of containers, their volumes",
    )
    sub = command(
        "status", show_status, "Show the parts and their health; exit code 0 if all are healthy."
    )
    sub.add_argument("--json", action="store_true", help="for programs")
    sub = command("logs", show_logs, "Show the logs of all parts, or of some.")
    sub.add_argument(
        "part",
        nargs="*",
        help=f"{', '.join(PARTS)}, supervisord; or a service of docker-compose.yml",
    )
    sub.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    sub.add_argument("-n", "--lines", type=int, default=20, help="how many of each (default: 20)")
    sub.add_argument("--raw", action="store_true", help="the lines as they were written")


def _using(command: _Command) -> None:
    """What speaks to its APIs."""
    sub = command(
        "demo",
        run_demo,
        "Start the platform, place orders of every kind, and show what becomes of them.",
    )
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--containers", action="store_true", help=_CONTAINERS)
    how.add_argument(
        "--without",
        choices=list(experiments.EXPERIMENTS),
        metavar="SAFEGUARD",
        help="instead show, on a native platform that is thrown away, what goes wrong when it lacks "
        f"one of {', '.join(experiments.EXPERIMENTS)}",
    )
    sub = command("token", token, "Print a token for development.")
    sub.add_argument("--sub", required=True, help="the customer or operator, as alice")
    sub.add_argument(
        "--scope", required=True, help='space-separated, as "orders:read orders:write"'
    )
    sub.add_argument("--lifetime", type=int, default=3600, metavar="SECONDS", help="default: 3600")


def _keeping(command: _Command) -> None:
    """What its databases need."""
    command("migrate", migrate, "Run the migrations of all services against the running databases.")
    sub = command("backup", back_up, "Write a dump of each database into a folder.")
    sub.add_argument("folder", type=Path, help="a new or empty one")
    sub = command(
        "restore",
        restore,
        "Set databases back to their dumps, have the services agree again, and start them. "
        "Exit code 1 if they do not agree in everything.",
    )
    sub.add_argument("folder", type=Path, help="that scripts/backup has written")
    sub.add_argument(
        "database", nargs="*", choices=[[], *DATABASES], help="only these (default: all)"
    )
    sub = command(
        "reconcile",
        run_reconcile,
        "Have the services agree again, after one database was set back to an older point than the "
        "others. Exit code 1 if they do not agree in everything.",
    )
    sub.add_argument(
        "--undo-unknown",
        action="store_true",
        help="give back stock and money of orders that the order service does not know any more",
    )
    sub = command("new-migration", new_migration, "Begin a migration with the next free version.")
    sub.add_argument(
        "service", choices=list(DATABASES), help="whose database; provider is the simulator's"
    )
    sub.add_argument("name", help="what it does, as add_delivery_note")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except LocalError as error:
        Console(stderr=True, highlight=False).print(
            f"[red]error:[/] {escape(str(error))}", soft_wrap=True
        )
        return 1
    except PermissionError as error:
        print(
            f"error: {error}\nThis state belongs to another user; run as that user.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
