"""What operators' commands print: lines and tables for people, JSON for programs."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def show_json(document: Any) -> None:
    """For programs; times in UTC, everything else that is not JSON as text."""
    text = orjson.dumps(document, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_INDENT_2)
    say(text.decode())


def show_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows below their headings; the last column may be as long as it wants."""
    cells = [list(columns), *([_cell(row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(columns))]
    for line in cells:
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        say("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    return " ".join(str(value).split())


def duration(age: timedelta) -> str:
    """As people say it: 5 s, 3 min, 2 h, 4 d."""
    seconds = max(0.0, age.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
