"""One golden message per type and major version, as it lies in the topics.

A golden file is never edited once released: when a message gains an optional field, the file
stays as it was and shows that older messages are still understood.
"""

import json
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from ecom_contracts.envelope import decode, encode
from ecom_contracts.messages import MESSAGES, Message
from ecom_contracts.schemas import ROOT
from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker

GOLDEN: Final = Path(__file__).parent / "golden"

every_type = pytest.mark.parametrize("type_", MESSAGES)


def golden(type_: str) -> bytes:
    return (GOLDEN / f"{type_}.json").read_bytes()


def schema(type_: str) -> dict[str, Any]:
    loaded: dict[str, Any] = orjson.loads((ROOT / "schemas" / f"{type_}.json").read_bytes())
    return loaded


def part_that(original: Any, says: Any) -> Any:
    """`says`, without the fields that `original` does not have."""
    if isinstance(original, dict) and isinstance(says, dict):
        return {k: part_that(v, says[k]) for k, v in original.items() if k in says}
    if isinstance(original, list) and isinstance(says, list) and len(original) == len(says):
        return [part_that(a, b) for a, b in zip(original, says, strict=True)]
    return says


@every_type
def test_a_golden_message_is_decoded_as_its_type(type_: str) -> None:
    envelope = decode(golden(type_))
    assert type(envelope.data) is MESSAGES[type_]
    assert envelope.type == type_
    assert envelope.subject == envelope.data.key


@every_type
def test_every_field_of_a_golden_message_survives_decoding_and_encoding(type_: str) -> None:
    original = orjson.loads(golden(type_))
    again = orjson.loads(encode(decode(golden(type_))))
    assert part_that(original, again) == original
    assert again.keys() == original.keys()


@every_type
def test_what_is_encoded_beyond_a_golden_message_is_an_optional_field(type_: str) -> None:
    original = orjson.loads(golden(type_))
    again = orjson.loads(encode(decode(golden(type_))))
    for name in again["data"].keys() - original["data"].keys():
        assert not MESSAGES[type_].model_fields[name].is_required()


@every_type
def test_a_golden_message_fits_its_schema_in_either_dialect(type_: str) -> None:
    message = orjson.loads(golden(type_))
    for validator in (Draft7Validator, Draft202012Validator):
        validator.check_schema(schema(type_))
        validator(schema(type_), format_checker=FormatChecker()).validate(message)


@every_type
def test_what_we_encode_fits_the_schema_too(type_: str) -> None:
    message = orjson.loads(encode(decode(golden(type_))))
    Draft202012Validator(schema(type_), format_checker=FormatChecker()).validate(message)


def test_every_registered_type_has_a_golden_and_a_schema_and_there_are_no_others() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == MESSAGES.keys()
    assert {file.stem for file in (ROOT / "schemas").iterdir()} == MESSAGES.keys()


def test_every_message_class_is_registered_under_its_own_type() -> None:
    assert {model.TYPE: model for model in Message.__subclasses__()} == MESSAGES


def test_golden_files_are_written_for_people() -> None:
    for file in GOLDEN.iterdir():
        text = file.read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n", file.name
