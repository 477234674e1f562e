"""Arrays as Postgres writes them: one literal for each, `{1,NULL,"text"}`.

The driver would write ARRAY[...], which the server reads as an expression for each element: reading statements and
parameters was a fifth of what it did for a batch, and is a sixth now.
"""

from collections.abc import Callable, Sequence
from typing import Any


def array(values: Sequence[Any], convert: Callable[[Any], str]) -> str:
    """The literal; `convert` writes an element that is not None, in quotes unless it is of harmless characters."""
    return f"{{{','.join(['NULL' if value is None else convert(value) for value in values])}}}"


def array_of_texts_or_numbers(values: Sequence[str | int]) -> str:
    """The literal of what a statement looks for."""
    return array(values, lambda value: quoted(value) if isinstance(value, str) else str(value))


def quoted(text: str) -> str:
    """Any text as an element, and any member of an enumeration of texts."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
