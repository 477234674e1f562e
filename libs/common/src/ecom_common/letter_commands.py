"""The operators' commands for dead letters: list, show, redrive, discard. The same in every service.

A letter is named order/7: its service and its id. Inside the service's own image 7 is enough.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ecom_contracts.envelope import ContractError, decode
from sqlalchemy import Row
from sqlalchemy.orm import Session

from ecom_common import dead_letters
from ecom_common.operations import (
    COULD_NOT_LOOK,
    DONE,
    REFUSED,
    Command,
    Context,
    Outcome,
    positive,
    settle_all,
)
from ecom_common.terminal import say, show_json, show_table

LISTED: Final = 50
MOST_AT_ONCE: Final = 1_000
SHOWN_CHARS: Final = 100
HEX_PER_LINE: Final = 16
HEX_LINES: Final = 64

_COLUMNS: Final = ("letter", "state", "failed_at", "place", "key", "type", "error")


@dataclass(frozen=True, slots=True)
class _Wish:
    """A letter to be settled, by whom and why."""

    letter_id: int
    actor: str
    reason: str


def _list(context: Context, options: argparse.Namespace) -> int:
    state = None if options.state == "all" else options.state
    key = None if options.key is None else options.key.encode()
    with context.sessions() as session:
        ids = dead_letters.ids(
            session, state=state, topic=options.topic, key=key, most=options.limit
        )
        letters = [_summary(context, row) for row in dead_letters.load(session, ids)]
        waiting = dead_letters.count_open(session)
    if options.json:
        show_json(letters)
        return DONE
    if letters:
        show_table(
            [{**one, "error": one["error"][:SHOWN_CHARS]} for one in letters], columns=_COLUMNS
        )
    say(f"{context.service}: {waiting} open, {len(letters)} shown")
    if first := next((one["letter"] for one in letters if one["state"] == "open"), None):
        say(context.hint(f"dead-letters show {first}"))
    return DONE


def _show(context: Context, options: argparse.Namespace) -> int:
    with context.sessions() as session:
        found = dead_letters.load(session, [_own(context, options.letter)])
    if not found:
        sys.stderr.write(f"{context.service}: there is no letter {options.letter}\n")
        return REFUSED
    (row,) = found
    payload = bytes(row.payload)
    if options.raw:
        sys.stdout.buffer.write(payload)
    elif options.json:
        show_json({**_summary(context, row), **_rest(row), "payload": _text(payload),
                   "payload_hex": payload.hex()})  # fmt: skip
    else:
        _show_whole(context, row, payload)
    return DONE


def _show_whole(context: Context, row: Row[Any], payload: bytes) -> None:
    for name, value in {**_summary(context, row), **_rest(row)}.items():
        if name != "stack" and value is not None:
            say(f"{name:<15} {value}")
    say(f"\nthe message, {len(payload)} bytes as they came:")
    for line in readable(payload):
        say(f"  {line}")
    say("\nthe stack:")
    for line in row.stack.rstrip().splitlines():
        say(f"  {line}")
    if row.state == "open":
        letter = _name(context, row.id)
        say(
            f"\nwhen the cause is mended:  {context.hint(f'dead-letters redrive {letter} --reason …')}"
        )
        say(
            f"if nobody needs it:        {context.hint(f'dead-letters discard {letter} --reason …')}"
        )


def _redrive(context: Context, options: argparse.Namespace) -> int:
    def settle(session: Session, wish: _Wish) -> bool:
        return dead_letters.redrive(session, wish.letter_id, actor=wish.actor, reason=wish.reason)

    return _settle(context, options, settle, "redriven: it goes to its topic once more")


def _discard(context: Context, options: argparse.Namespace) -> int:
    def settle(session: Session, wish: _Wish) -> bool:
        return dead_letters.discard(session, wish.letter_id, actor=wish.actor, reason=wish.reason)

    return _settle(context, options, settle, "discarded: it is kept as evidence, and nothing more")


def _settle(
    context: Context,
    options: argparse.Namespace,
    settle: Callable[[Session, _Wish], bool],
    done: str,
) -> int:
    ids = _chosen(context, options)
    if ids is None:
        sys.stderr.write("name letters, or --all, perhaps with --topic\n")
        return COULD_NOT_LOOK
    if not ids:
        if options.json:
            show_json([])
        else:
            say(f"{context.service}: no open dead letters of that kind")
        return DONE

    def handle(session: Session, wishes: Sequence[_Wish]) -> list[Outcome]:
        return [
            Outcome(_name(context, wish.letter_id), done, changed=True)
            if settle(session, wish)
            else _settled_before(context, session, wish.letter_id)
            for wish in wishes
        ]

    wishes = [_Wish(letter_id, options.actor, options.reason) for letter_id in ids]
    return settle_all(
        context,
        handle,
        wishes,
        name_of=lambda wish: _name(context, wish.letter_id),
        as_json=options.json,
    )


def _chosen(context: Context, options: argparse.Namespace) -> list[int] | None:
    if bool(options.letter) == bool(options.all) or (options.topic and not options.all):
        return None
    if options.letter:
        return sorted({_own(context, letter) for letter in options.letter})
    with context.sessions() as session:
        return dead_letters.ids(session, topic=options.topic, most=MOST_AT_ONCE)


def _settled_before(context: Context, session: Session, letter_id: int) -> Outcome:
    name = _name(context, letter_id)
    found = dead_letters.load(session, [letter_id])
    if not found:
        return Outcome(name, "there is no such letter", refused=True)
    (row,) = found
    return Outcome(
        name, f"was {row.state} already by {row.settled_by}: {row.settled_reason or '-'}"
    )


def _name(context: Context, letter_id: int) -> str:
    return f"{context.short}/{letter_id}"


def _own(context: Context, letter: tuple[str, int]) -> int:
    """The id; another service's letters are not here."""
    service, letter_id = letter
    if service not in ("", context.short):
        sys.stderr.write(f"{service}/{letter_id} is not a letter of {context.service}\n")
        raise SystemExit(COULD_NOT_LOOK)
    return letter_id


def _summary(context: Context, row: Row[Any]) -> dict[str, Any]:
    return {
        "letter": _name(context, row.id),
        "state": row.state,
        "failed_at": row.failed_at,
        "place": f"{row.source_topic}/{row.source_partition} #{row.source_offset}",
        "key": None if row.key is None else _text(bytes(row.key)),
        "type": _type(bytes(row.payload)),
        "error": row.error,
    }


def _rest(row: Row[Any]) -> dict[str, Any]:
    names = ("settled_at", "settled_by", "settled_reason", "stack")
    return {name: getattr(row, name) for name in names}


def _type(payload: bytes) -> str | None:
    """What kind of message it would be; None when it is none."""
    try:
        return decode(payload).type
    except (ContractError, ValueError):
        return None


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace").replace("\0", "\\x00")


def readable(payload: bytes) -> list[str]:
    """Text as text; anything else as a hex dump, of its beginning."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = ""
    if text and all(c.isprintable() or c in "\r\n\t" for c in text):
        return text.splitlines()
    lines = [
        f"{at:08x}  {payload[at : at + HEX_PER_LINE].hex(' '):<47}  "
        + "".join(chr(b) if 32 <= b < 127 else "." for b in payload[at : at + HEX_PER_LINE])
        for at in range(0, len(payload), HEX_PER_LINE)
    ]
    left = len(lines) - HEX_LINES
    return lines if left <= 0 else [*lines[:HEX_LINES], f"… {left} lines more; --raw has all of it"]


# ---- the command line


def letter(text: str) -> tuple[str, int]:
    """order/7, or 7."""
    service, _, number = text.rpartition("/")
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: as order/7, see dead-letters list")
    return service, int(number)


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        choices=["open", "redriven", "discarded", "all"],
        default="open",
        help="default: open",
    )
    parser.add_argument("--topic", help="only those that came from this topic")
    parser.add_argument("--key", help="only those with this key, as an order's id")
    parser.add_argument(
        "--limit", type=positive, default=LISTED, metavar="N", help=f"default: {LISTED}"
    )


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("letter", type=letter, help="as order/7")
    parser.add_argument("--raw", action="store_true", help="only the original bytes")


def _settle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("letter", nargs="*", type=letter, help="as order/7")
    parser.add_argument(
        "--all", action="store_true", help=f"every open one, {MOST_AT_ONCE} at most"
    )
    parser.add_argument("--topic", help="with --all: only those that came from this topic")


LETTER_COMMANDS: Final = (
    Command(
        "dead-letters list",
        "Show the messages that could not be handled.",
        _list,
        _list_arguments,
    ),
    Command(
        "dead-letters show",
        "Show one whole: the original bytes, the error and its stack.",
        _show,
        _show_arguments,
    ),
    Command(
        "dead-letters redrive",
        "Send the original bytes to their topic again, once the cause is mended.",
        _redrive,
        _settle_arguments,
        needs_reason=True,
    ),
    Command(
        "dead-letters discard",
        "Put letters aside that nobody needs. They stay as evidence.",
        _discard,
        _settle_arguments,
        needs_reason=True,
    ),
)
