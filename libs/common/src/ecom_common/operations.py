"""The frame of a service's operators' command, `ecom-ops`: command line, output, exit codes.

Knows no service. Each has a module `operations` with a literal list of `Command`s, its own beside those of
`letter_commands` and `glance`, and hands it to `run_operations`. What changes something is said who did it and
why, goes through `apply_batch` like everything else, and does nothing the second time. Nothing here produces.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from confluent_kafka import KafkaException

from ecom_common.batch import Failed, apply_batch
from ecom_common.cards import contains_card_number
from ecom_common.database import DATABASE_ERRORS, Sessions, make_engine, make_sessions
from ecom_common.errors import EcomError
from ecom_common.logs import describe
from ecom_common.settings import KafkaSettings, ServiceSettings, load
from ecom_common.terminal import say, show_json

DONE: Final = 0
REFUSED: Final = 1
COULD_NOT_LOOK: Final = 2

MAX_REASON_CHARS: Final = 500
MAX_ACTOR_CHARS: Final = 100
AT_ONCE: Final = 100
"""Things in one transaction: their locks are held for some milliseconds."""
STATEMENT_TIMEOUT: Final = "30s"
"""Whoever looks may wait longer than whoever serves."""

_EPILOG: Final = """\
exit codes: 0 done, or nothing to do; 1 refused or failed, at least in part; 2 bad usage, or could not look
Every command may be repeated: what is done already is said to be so. It is safe while the platform runs."""


@dataclass(frozen=True)
class Context:
    """What a command works with."""

    service: str
    """As order_service."""
    settings: ServiceSettings
    sessions: Sessions
    called: str
    """What the operator types, for hints."""

    @property
    def short(self) -> str:
        """The service's name as operators say it: order."""
        return self.service.removesuffix("_service")

    @cached_property
    def kafka_settings(self) -> KafkaSettings:
        return load(KafkaSettings)

    def hint(self, command: str) -> str:
        """What to type next."""
        return f"→ {self.called} {command}"


@dataclass(frozen=True, slots=True)
class Command:
    """One command: "stuck", or "dead-letters list"."""

    name: str
    summary: str
    run: Callable[[Context, argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None
    needs_reason: bool = False
    """It changes something: who and why have to be said."""


def run_operations(
    service: str,
    settings_of: type[ServiceSettings],
    commands: Sequence[Command],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run the command that the arguments name; the exit code."""
    options = make_parser(service, commands, arguments).parse_args(arguments)
    try:
        context = _context(service, settings_of, options)
        try:
            code: int = options.run(context, options)
        finally:
            context.sessions.kw["bind"].dispose()
        sys.stdout.flush()
        return code
    except EcomError as error:
        return _complain(f"{service}: {error}")
    except (*DATABASE_ERRORS, KafkaException) as error:
        return _complain(f"{service}: could not look: {describe(error)}")
    except BrokenPipeError:
        # Whoever reads has seen enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return 130


def _context(
    service: str, settings_of: type[ServiceSettings], options: argparse.Namespace
) -> Context:
    settings = load(settings_of)
    engine = make_engine(
        settings.database_url.get_secret_value(),
        application_name=f"{service}-operations",
        pool_size=2,
        server_options={"statement_timeout": STATEMENT_TIMEOUT},
    )
    return Context(service, settings, make_sessions(engine), options.called)


def _complain(text: str) -> int:
    sys.stderr.write(text + "\n")
    return COULD_NOT_LOOK


# ---- doing


def settle_all(
    context: Context,
    handle: Callable[[Any, Sequence[Any]], Sequence["Outcome"]],
    wishes: Sequence[Any],
    *,
    name_of: Callable[[Any], str],
    as_json: bool,
) -> int:
    """Have `handle` deal with the wishes, some in each transaction, and say what came of each."""
    code = DONE
    shown: list[dict[str, Any]] = []
    for begin in range(0, len(wishes), AT_ONCE):
        part = wishes[begin : begin + AT_ONCE]
        for wish, outcome in zip(
            part, apply_batch(context.sessions, handle, part, name="operations"), strict=True
        ):
            if isinstance(outcome, Failed):
                outcome = Outcome(name_of(wish), f"failed: {describe(outcome.error)}", refused=True)
            code = max(code, REFUSED if outcome.refused else DONE)
            shown.append({"what": outcome.what, "said": outcome.said,
                          "changed": outcome.changed, "refused": outcome.refused})  # fmt: skip
            if not as_json:
                mark = "✗" if outcome.refused else "✓" if outcome.changed else "·"
                say(f"{mark} {outcome.what}  {outcome.said}")
    if as_json:
        show_json(shown)
    return code


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one wish: changed, refused, or neither when there was nothing (left) to do."""

    what: str
    said: str
    changed: bool = False
    refused: bool = False


# ---- the command line


def make_parser(
    service: str, commands: Sequence[Command], arguments: Sequence[str] | None
) -> argparse.ArgumentParser:
    """The command line. The arguments are only asked what we are called."""
    called = _called(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog=called,
        description=f"Look after {service} while it runs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--called", default=called, help=argparse.SUPPRESS)
    top = parser.add_subparsers(required=True, metavar="command")
    groups: dict[str, Any] = {}
    for command in commands:
        group, _, rest = command.name.rpartition(" ")
        if group and group not in groups:
            text = "; ".join(c.name for c in commands if c.name.startswith(f"{group} "))
            inner = top.add_parser(group, help=text, description=text)
            groups[group] = inner.add_subparsers(required=True, metavar="command")
        _add(groups[group] if group else top, rest, command)
    return parser


def _called(arguments: Sequence[str]) -> str:
    return arguments[1] if arguments[:1] == ["--called"] and len(arguments) > 1 else "ecom-ops"


def _add(to: Any, name: str, command: Command) -> None:
    sub = to.add_parser(
        name,
        help=command.summary,
        description=command.summary,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # Whoever abbreviates --reason at three in the morning means something else.
        allow_abbrev=False,
    )
    command.arguments(sub)
    if command.needs_reason:
        who = _login()
        sub.add_argument(
            "--actor",
            type=_words(MAX_ACTOR_CHARS),
            default=who,
            required=who is None,
            help="who does it (default: your login name, where you have one)",
        )
        sub.add_argument(
            "--reason", type=_words(MAX_REASON_CHARS), required=True, help="why; it is kept"
        )
    sub.add_argument("--json", action="store_true", help="for programs")
    sub.set_defaults(run=command.run)


def _login() -> str | None:
    """Who sits there; None for the account of a container, which nobody logs in to."""
    for name in ("SUDO_USER", "LOGNAME", "USER"):
        if who := os.environ.get(name):
            return who[:MAX_ACTOR_CHARS]
    return None


def _words(most: int) -> Callable[[str], str]:
    """Words that may be stored and shown: one line, no card number."""

    def check(text: str) -> str:
        words = " ".join(text.split())
        if not words or len(words) > most or not words.isprintable():
            raise argparse.ArgumentTypeError(f"1 to {most} printable characters")
        if contains_card_number(words):
            raise argparse.ArgumentTypeError("card numbers are not accepted here")
        return words

    return check


def positive(text: str) -> int:
    """A number from 1, for limits."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 100_000):
        raise argparse.ArgumentTypeError("1 to 100000")
    return int(text)


def moment(text: str) -> datetime:
    """A point in time, with its zone."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("as 2026-01-31T12:00:00Z") from None
    if at.tzinfo is None:
        raise argparse.ArgumentTypeError("say the zone too, as 2026-01-31T12:00:00Z")
    return at
