"""The command line behind the scripts: one subcommand each."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from ecom_local import demo, logs, migrations, status, tokens
from ecom_local.errors import LocalError
from ecom_local.instance import Instance
from ecom_local.parts import DATABASES, PARTS, SERVICES
from ecom_local.paths import REPOSITORY, default_home
from ecom_local.ports import Ports, variable

_PORTS = "\n".join(f"  {variable(name):<28} {port}" for name, port in Ports().to_dict().items())
_SETTINGS = f"""\
environment:
  ECOM_HOME                    where the instance keeps its state (default: .local in the checkout)
{_PORTS}
  LOG_LEVEL                    of the services (default: INFO)
"""

console = Console(highlight=False, soft_wrap=True)


def up(options: argparse.Namespace) -> int:
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
    _instance().stop(wipe=options.wipe)
    what = "stopped, and all data deleted" if options.wipe else "stopped"
    console.print(f"{what} after {time.monotonic() - begin:.1f} s")
    return 0


def show_status(options: argparse.Namespace) -> int:
    instance = _instance()
    rows = status.collect(instance)
    if options.json:
        print(json.dumps(status.to_dict(instance, rows), indent=2))
    else:
        status.show(rows)
    return 0 if status.healthy(rows) else 1


def show_logs(options: argparse.Namespace) -> int:
    logs.show(
        _instance().layout,
        options.part,
        lines=options.lines,
        follow=options.follow,
        raw=options.raw,
    )
    return 0


def run_demo(_: argparse.Namespace) -> int:
    instance = _instance_to_start()
    _start(instance)
    return demo.run(instance, console)


def token(options: argparse.Namespace) -> int:
    instance = _instance()
    print(
        tokens.mint(
            sub=options.sub,
            scope=options.scope,
            lifetime_s=options.lifetime,
            home=instance.layout.home,
        )
    )
    return 0


def migrate(_: argparse.Namespace) -> int:
    instance = _instance(say=console.print)
    if instance.problem("postgres") is not None:
        raise LocalError("Postgres does not run; start it with scripts/up.")
    instance.migrate()
    return 0


def new_migration(options: argparse.Namespace) -> int:
    print(migrations.new_migration(options.service, options.name).relative_to(REPOSITORY))
    return 0


def _instance(say: Callable[[str], None] = console.print) -> Instance:
    return Instance(default_home(), say=say)


def _instance_to_start() -> Instance:
    """A running platform keeps its ports, unless the environment now names others."""
    running = _instance()
    base = running.ports if running.is_running() else Ports()
    return Instance(default_home(), ports=base.with_environment(), say=_step)


def _step(text: str) -> None:
    console.print(f"  [dim]·[/] {text}")


def _start(instance: Instance) -> None:
    with console.status("starting"):
        instance.start_all()


def _addresses(instance: Instance) -> None:
    for service in SERVICES:
        console.print(f"  {service:<10} {instance.url(service)}/docs")
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

    sub = command(
        "up", up, "Start the platform and wait until it is ready; harmless if it runs already."
    )
    sub.add_argument(
        "--restart",
        dest="part",
        nargs="+",
        choices=list(PARTS),
        metavar="PART",
        help="only restart these parts",
    )
    sub = command("down", down, "Stop the platform; nothing is left running.")
    sub.add_argument("--wipe", action="store_true", help="then delete its data, keys and passwords")
    sub = command(
        "status", show_status, "Show the parts and their health; exit code 0 if all are healthy."
    )
    sub.add_argument("--json", action="store_true", help="for programs")
    sub = command("logs", show_logs, "Show the logs of all parts, or of some.")
    sub.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}, supervisord")
    sub.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    sub.add_argument("-n", "--lines", type=int, default=20, help="how many of each (default: 20)")
    sub.add_argument("--raw", action="store_true", help="the lines as they were written")
    command(
        "demo",
        run_demo,
        "Start the platform, place orders of every kind, and show what becomes of them.",
    )
    sub = command("token", token, "Print a token for development.")
    sub.add_argument("--sub", required=True, help="the customer or operator, as alice")
    sub.add_argument(
        "--scope", required=True, help='space-separated, as "orders:read orders:write"'
    )
    sub.add_argument("--lifetime", type=int, default=3600, metavar="SECONDS", help="default: 3600")
    command("migrate", migrate, "Run the migrations of all services against the running databases.")
    sub = command("new-migration", new_migration, "Begin a migration with the next free version.")
    sub.add_argument(
        "service", choices=list(DATABASES), help="whose database; provider is the simulator's"
    )
    sub.add_argument("name", help="what it does, as add_delivery_note")
    return parser


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
