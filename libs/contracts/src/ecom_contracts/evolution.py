"""What a published schema may become: it may only grow.

Owns one pure function, `breaking_changes`. It compares two JSON Schemas of one message type and
major version: the one that was released, and the one that is about to be. Old and new services
run side by side during every rollout, and topics keep messages for weeks, so each side must
understand the other:

- A field may be added, if it is optional. None may go, and none may become required (older
  publishers do not send it) or optional (older readers rely on it).
- A bound may become looser, provided that readers are rolled out before publishers use it. It
  may not become tighter: messages that were valid are still in the topics.
- A type never changes, and neither do nullability, format, a default, or the topic and its key.
- An enum does not shrink, and it does not grow either. Growth looks harmless and is not: every
  enum here is a state that a reader decides upon by a complete table, and an older reader can
  neither act on a state that it does not know nor leave it aside, since it may be the very one
  that changes what is owed. A new state is a new meaning, hence a new major version. What is
  meant to be an open set (a reason, a decline code) is a text, and says so.

Whatever keyword is not named here must stay as it is: a rule that nobody thought about is
refused, not waved through.
"""

from collections.abc import Iterator
from typing import Any, Final

Schema = dict[str, Any]

# They say something to people only.
_ANNOTATIONS: Final = frozenset({"title", "description", "examples", "$comment", "deprecated"})
_LOWER_BOUNDS: Final = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems"})
_UPPER_BOUNDS: Final = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems"})
# May be dropped, since less is then refused; how two of them compare cannot be told.
_DROPPABLE: Final = frozenset({"pattern", "uniqueItems", "multipleOf", "additionalProperties"})
_WALKED: Final = frozenset({"properties", "required", "items", "anyOf", "enum"})

_ABSENT: Final = object()


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Each way in which `new` is not just more than `old`, as `path: reason`; none is good.

    Both must be free of `$ref`, as `schemas.py` writes them.
    """
    return list(_compare(old, new, "$"))


def _compare(old: Schema, new: Schema, path: str) -> Iterator[str]:
    if old.get("type") != new.get("type"):
        # Everything below would only repeat it.
        yield f"{path}: the type changed from {_type(old)} to {_type(new)}"
        return
    yield from _properties(old, new, path)
    yield from _enum(old, new, path)
    yield from _alternatives(old, new, path)
    if "items" in old and "items" in new:
        yield from _compare(old["items"], new["items"], f"{path}[]")
    elif "items" in old or "items" in new:
        yield f"{path}: what the list holds changed"
    for keyword in sorted((old.keys() | new.keys()) - _ANNOTATIONS - _WALKED):
        yield from _keyword(keyword, old.get(keyword, _ABSENT), new.get(keyword, _ABSENT), path)


def _type(schema: Schema) -> str:
    return str(schema.get("type", "one of several" if "anyOf" in schema else "any"))


def _properties(old: Schema, new: Schema, path: str) -> Iterator[str]:
    old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
    old_required, new_required = set(old.get("required", ())), set(new.get("required", ()))
    for name, schema in old_fields.items():
        field = f"{path}.{name}"
        if name not in new_fields:
            yield f"{field}: the field was removed; readers may rely on it"
            continue
        if name in new_required - old_required:
            yield f"{field}: the field became required; older publishers leave it out"
        if name in old_required - new_required:
            yield f"{field}: the field became optional; older readers rely on it"
        yield from _compare(schema, new_fields[name], field)
    for name in new_fields:
        if name not in old_fields and name in new_required:
            yield f"{path}.{name}: a new field is required; older publishers do not send it"


def _enum(old: Schema, new: Schema, path: str) -> Iterator[str]:
    if ("enum" in old) != ("enum" in new):
        yield f"{path}: it {'was' if 'enum' in old else 'became'} a closed set of values"
        return
    old_values, new_values = set(old.get("enum", ())), set(new.get("enum", ()))
    if gone := old_values - new_values:
        yield f"{path}: the enum lost {_listed(gone)}; messages in the topics still say it"
    if come := new_values - old_values:
        yield (
            f"{path}: the enum gained {_listed(come)}; older readers cannot decide upon it,"
            " so it needs a new major version"
        )


def _listed(values: set[Any]) -> str:
    return ", ".join(sorted(map(str, values)))


def _alternatives(old: Schema, new: Schema, path: str) -> Iterator[str]:
    """`anyOf` is only ever "this, or null" here; alternatives are told apart by their types."""
    old_by_type = {_type(schema): schema for schema in old.get("anyOf", ())}
    new_by_type = {_type(schema): schema for schema in new.get("anyOf", ())}
    if old_by_type.keys() != new_by_type.keys():
        yield (
            f"{path}: the type changed from {' or '.join(old_by_type) or _type(old)}"
            f" to {' or '.join(new_by_type) or _type(new)}"
        )
        return
    for type_, schema in old_by_type.items():
        yield from _compare(schema, new_by_type[type_], path)


def _keyword(keyword: str, old: Any, new: Any, path: str) -> Iterator[str]:
    if old == new:
        return
    if keyword in _LOWER_BOUNDS:
        if old is _ABSENT or (new is not _ABSENT and new > old):
            yield f"{path}: {keyword} was narrowed from {_told(old)} to {_told(new)}"
    elif keyword in _UPPER_BOUNDS:
        if old is _ABSENT or (new is not _ABSENT and new < old):
            yield f"{path}: {keyword} was narrowed from {_told(old)} to {_told(new)}"
    elif not (keyword in _DROPPABLE and new is _ABSENT):
        yield f"{path}: {keyword} changed from {_told(old)} to {_told(new)}"


def _told(value: Any) -> str:
    return "nothing" if value is _ABSENT else str(value)
