"""The command: looks once, or keeps looking, and says by its exit code what it saw."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from ecom_common.errors import ConfigurationError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from ecom_audit.databases import DATABASES, engines
from ecom_audit.invariants import INVARIANTS, SETTLED, Report
from ecom_audit.look import Patience, look
from ecom_audit.metrics import Metrics
from ecom_audit.show import as_json, as_text

CLEAN: Final = 0
VIOLATED: Final = 1
COULD_NOT_LOOK: Final = 2

_VARIABLES: Final = {name: f"AUDIT_{name.upper()}_DATABASE_URL" for name in DATABASES}
_EPILOG: Final = "\n".join(
    [
        "invariants:",
        *(f"  {name:<13} {text}" for name, text in INVARIANTS.items()),
        "",
        "environment:",
        *(
            f"  {name:<29} postgresql:// URL; reading is all it needs"
            for name in _VARIABLES.values()
        ),
        "",
        "exit codes:",
        "  0 clean   1 violations (with --strict: or something that waits for somebody)   2 could not look",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments)
    try:
        databases = engines(_urls(os.environ))
    except ConfigurationError as error:
        return _could_not_look(error)
    patience = Patience(options.grace, options.settle, options.pause)
    try:
        if options.watch is None:
            return _look(databases, patience, options)
        return _watch(databases, patience, options)
    except KeyboardInterrupt:
        return 130
    finally:
        for engine in databases.values():
            engine.dispose()


def _look(
    databases: Mapping[str, Engine],
    patience: Patience,
    options: argparse.Namespace,
    metrics: Metrics | None = None,
) -> int:
    try:
        report = look(databases, patience)
    except SQLAlchemyError as error:
        if metrics:
            metrics.show_failure()
        return _could_not_look(error)
    if metrics:
        metrics.show(report)
    text = as_json(report) if options.json else as_text(report, most=options.lines)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return _exit_code(report, strict=options.strict)


def _watch(databases: Mapping[str, Engine], patience: Patience, options: argparse.Namespace) -> int:
    """Look again and again until told to stop; the exit code is the last look's."""
    metrics = Metrics()
    try:
        metrics.serve(options.host, options.port)
    except OSError as error:
        return _could_not_look(error)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while True:
        code = _look(databases, patience, options, metrics)
        if stop.wait(options.watch):
            return code


def _exit_code(report: Report, *, strict: bool) -> int:
    waits = any(attention.kind not in SETTLED for attention in report.attention)
    return VIOLATED if report.violations or (strict and waits) else CLEAN


def _could_not_look(error: Exception) -> int:
    # Of an error of the database only what the driver says: SQLAlchemy adds the whole statement.
    cause = str(getattr(error, "orig", None) or error).strip()
    sys.stderr.write(f"could not look: {cause}\n")
    return COULD_NOT_LOOK


def _urls(environment: Mapping[str, str]) -> dict[str, str]:
    if missing := [name for name in _VARIABLES.values() if not environment.get(name)]:
        raise ConfigurationError(f"{', '.join(missing)} must be set")
    return {name: environment[variable] for name, variable in _VARIABLES.items()}


def make_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    # What the user has typed: a script of the repository calls us by another name than the images do.
    called = arguments[1] if arguments[:1] == ["--called"] and len(arguments) > 1 else "ecom-audit"
    parser = argparse.ArgumentParser(
        prog=called,
        description="Look at the three databases and the provider's book, changing nothing, and say what "
        "does not hold. What is on its way is not held against anybody.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--called", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="for programs, one line for each look")
    parser.add_argument(
        "--strict", action="store_true", help="dead letters and flagged orders count as violations"
    )
    parser.add_argument("--lines", type=int, default=20, help="shown of each kind (default: 20)")
    patience = Patience()
    for name, value, text in (
        ("grace", patience.grace_s, "how late a deadline or a message may be"),
        ("settle", patience.settle_s, "a row that changed so recently is on its way"),
        ("pause", patience.pause_s, "between two looks at one difference"),
    ):
        parser.add_argument(
            f"--{name}",
            type=_seconds,
            default=value,
            metavar="SECONDS",
            help=f"{text} (default: {value:g})",
        )
    parser.add_argument("--watch", type=_seconds, metavar="SECONDS", help="look again, so often")
    parser.add_argument(
        "--port", type=int, default=9108, help="of /metrics while watching (default: 9108)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="of /metrics (default: 127.0.0.1)")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("more than 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
