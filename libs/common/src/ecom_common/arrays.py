"""Arrays as Postgres writes them: one literal for each, `{1,"text"}`.

The driver would write ARRAY[...], which the server reads as an expression for each element.
"""

from collections.abc import Sequence


def array(values: Sequence[str | int]) -> str:
    """The literal of texts, enumerations' among them, or of numbers."""
    return f"{{{','.join([_element(value) for value in values])}}}"


def _element(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
