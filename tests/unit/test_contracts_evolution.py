"""A released schema may only grow: what counts as growing, and every refusal."""

import copy
from typing import Any, Final

import pytest
from ecom_contracts.evolution import breaking_changes
from ecom_contracts.messages import MESSAGES
from ecom_contracts.schemas import message_schema

RELEASED: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Released",
    "x-topic": "orders.events",
    "required": ["sku", "quantity", "lines", "state"],
    "properties": {
        "sku": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Z]+$"},
        "quantity": {"type": "integer", "minimum": 1, "maximum": 100},
        "id": {"type": "string", "format": "uuid"},
        "state": {"type": "string", "enum": ["held", "refused"]},
        "note": {"anyOf": [{"type": "string", "maxLength": 10}, {"type": "null"}], "default": None},
        "lines": {
            "type": "array",
            "minItems": 1,
            "maxItems": 100,
            "items": {
                "type": "object",
                "required": ["sku"],
                "properties": {"sku": {"type": "string"}, "gift": {"type": "boolean"}},
            },
        },
        "anything": {},
    },
}


def fields(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["properties"]
    return found


def changed(change: str) -> list[str]:
    """What is said of the released schema after this change to `s`, its copy, with fields `f`."""
    schema = copy.deepcopy(RELEASED)
    exec(change, {"s": schema, "f": fields(schema), "line": fields(schema)["lines"]["items"]})
    return breaking_changes(RELEASED, schema)


@pytest.mark.parametrize(
    "change",
    [
        "pass",
        "f['colour'] = {'type': 'string'}",
        "line['properties']['colour'] = {'type': 'string'}",
        "f['sku']['maxLength'] = 65",
        "f['sku']['minLength'] = 0",
        "del f['sku']['minLength']",
        "del f['sku']['pattern']",
        "f['quantity']['minimum'] = 0",
        "del f['quantity']['maximum']",
        "f['lines']['maxItems'] = 200",
        "f['note']['anyOf'][0]['maxLength'] = 20",
        "f['note']['anyOf'].reverse()",
        "f['state']['enum'].reverse()",
        "s['required'].reverse()",
        "f['sku']['description'] = 'The key.'",
        "s['title'] = 'Renamed'",
    ],
)
def test_growing_is_allowed(change: str) -> None:
    assert changed(change) == []


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("del f['id']", "$.id: the field was removed"),
        ("del line['properties']['gift']", "$.lines[].gift: the field was removed"),
        (
            "f['colour'] = {}; s['required'].append('colour')",
            "$.colour: a new field is required",
        ),
        ("s['required'].append('id')", "$.id: the field became required"),
        ("line['required'].append('gift')", "$.lines[].gift: the field became required"),
        ("s['required'].remove('sku')", "$.sku: the field became optional"),
        ("del s['required']", "$.sku: the field became optional"),
        ("f['quantity']['type'] = 'string'", "$.quantity: the type changed from integer to string"),
        ("f['quantity']['type'] = 'number'", "$.quantity: the type changed from integer to number"),
        ("del f['quantity']['type']", "$.quantity: the type changed from integer to any"),
        ("f['anything']['type'] = 'string'", "$.anything: the type changed from any to string"),
        (
            "f['sku'] = {'anyOf': [f['sku'], {'type': 'null'}]}",
            "$.sku: the type changed from string to one of several",
        ),
        ("f['note']['anyOf'].pop()", "$.note: the type changed from string or null to string"),
        ("f['note']['anyOf'][0]['maxLength'] = 9", "$.note: maxLength was narrowed from 10 to 9"),
        ("f['sku']['maxLength'] = 63", "$.sku: maxLength was narrowed from 64 to 63"),
        ("f['sku']['minLength'] = 2", "$.sku: minLength was narrowed from 1 to 2"),
        ("f['quantity']['minimum'] = 2", "$.quantity: minimum was narrowed from 1 to 2"),
        ("f['quantity']['maximum'] = 99", "$.quantity: maximum was narrowed from 100 to 99"),
        ("f['id']['maxLength'] = 36", "$.id: maxLength was narrowed from nothing to 36"),
        ("f['id']['minLength'] = 36", "$.id: minLength was narrowed from nothing to 36"),
        ("f['lines']['minItems'] = 2", "$.lines: minItems was narrowed from 1 to 2"),
        ("f['lines']['maxItems'] = 99", "$.lines: maxItems was narrowed from 100 to 99"),
        ("f['state']['enum'].remove('held')", "$.state: the enum lost held"),
        ("f['state']['enum'].append('lost')", "$.state: the enum gained lost"),
        ("del f['state']['enum']", "$.state: it was a closed set of values"),
        ("f['id']['enum'] = ['a']", "$.id: it became a closed set of values"),
        ("f['sku']['pattern'] = '^[a-z]+$'", "$.sku: pattern changed from ^[A-Z]+$ to ^[a-z]+$"),
        ("f['id']['pattern'] = '^0'", "$.id: pattern changed from nothing to ^0"),
        ("f['id']['format'] = 'uri'", "$.id: format changed from uuid to uri"),
        ("del f['id']['format']", "$.id: format changed from uuid to nothing"),
        ("f['note']['default'] = ''", "$.note: default changed from None to "),
        ("f['id']['const'] = 'x'", "$.id: const changed from nothing to x"),
        (
            "s['additionalProperties'] = False",
            "$: additionalProperties changed from nothing to False",
        ),
        ("del f['lines']['items']", "$.lines: what the list holds changed"),
        ("s['x-topic'] = 'catalog'", "$: x-topic changed from orders.events to catalog"),
        ("f['id']['not'] = {}", "$.id: not changed from nothing to {}"),
    ],
)
def test_anything_else_is_refused_with_its_path_and_reason(change: str, refusal: str) -> None:
    told = changed(change)
    assert told
    assert told[0].startswith(refusal)


def test_every_refusal_is_reported_and_not_only_the_first() -> None:
    told = changed("del f['id']; f['quantity']['maximum'] = 9; f['state']['enum'].append('lost')")
    assert len(told) == 3


def test_an_empty_enum_is_still_a_closed_set() -> None:
    assert breaking_changes({"type": "string"}, {"type": "string", "enum": []}) != []


@pytest.mark.parametrize("type_", MESSAGES)
def test_no_message_breaks_itself(type_: str) -> None:
    schema = message_schema(MESSAGES[type_])
    assert breaking_changes(schema, copy.deepcopy(schema)) == []


@pytest.mark.parametrize("type_", MESSAGES)
def test_losing_any_field_of_any_message_is_refused(type_: str) -> None:
    released = message_schema(MESSAGES[type_])
    for name in fields(fields(released)["data"]):
        schema = copy.deepcopy(released)
        del fields(fields(schema)["data"])[name]
        assert any(f"$.data.{name}: " in told for told in breaking_changes(released, schema))
