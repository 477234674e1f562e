"""What comes off the wire: accepted, refused by the right name, and never quoted."""

import traceback
from datetime import UTC, datetime, timedelta, timezone
from time import perf_counter
from typing import Any, Final
from uuid import UUID

import orjson
import pytest
from ecom_contracts.envelope import (
    ContractError,
    Envelope,
    MalformedEnvelope,
    UnknownType,
    UnsupportedMajor,
    decode,
    encode,
)
from ecom_contracts.messages import (
    MESSAGES,
    ItemChanged,
    Message,
    PaymentChanged,
    PaymentState,
    ReservationChanged,
    ReservationState,
    StockCommit,
    StockLine,
    StockReserve,
)
from ecom_contracts.schemas import message_schema
from hypothesis import given, settings
from hypothesis import strategies as st

ORDER: Final = UUID("01939f6e-1c1a-7b5e-9c3d-2f6a4e8b1d70")
MESSAGE: Final = UUID("01939f6e-3a00-7d20-b1c4-5e8f7a6b9c0d")
# A good one first: of a list with only bad ones, pydantic says that it is too short as well.
A_LINE: Final = {"sku": "MUG-BLUE", "quantity": 2}
SECRET: Final = "Erika-Mustermann-4111"


def an_envelope(data: Message, **attributes: Any) -> Envelope[Message]:
    return Envelope(
        **{
            "id": MESSAGE,
            "source": "order_service",
            "type": data.TYPE,
            "subject": data.key,
            "time": datetime(2024, 12, 7, 10, 15, 30, tzinfo=UTC),
            "sequence": 1,
            "data": data,
            **attributes,
        }
    )


def a_reserve() -> StockReserve:
    return StockReserve(order_id=ORDER, lines=(StockLine(sku="MUG-BLUE", quantity=2),))


def attributes_of(data: Message) -> dict[str, Any]:
    loaded: dict[str, Any] = orjson.loads(encode(an_envelope(data)))
    return loaded


def decoded_with(**changes: Any) -> Envelope[Message]:
    """Decode a good message with some of its attributes changed; `...` takes one away."""
    attributes = {**attributes_of(a_reserve()), **changes}
    return decode(orjson.dumps({k: v for k, v in attributes.items() if v is not ...}))


def decoded_with_data(**changes: Any) -> Envelope[Message]:
    data = {**attributes_of(a_reserve())["data"], **changes}
    return decoded_with(data={k: v for k, v in data.items() if v is not ...})


# What we write


def test_an_encoded_message_is_a_structured_cloud_event() -> None:
    assert attributes_of(a_reserve()) == {
        "specversion": "1.0",
        "id": str(MESSAGE),
        "source": "order_service",
        "type": "stock.reserve.v1",
        "subject": str(ORDER),
        "time": "2024-12-07T10:15:30Z",
        "datacontenttype": "application/json",
        "sequence": 1,
        "data": {"order_id": str(ORDER), "lines": [{"sku": "MUG-BLUE", "quantity": 2}]},
    }


def test_optional_attributes_are_written_when_they_are_given() -> None:
    envelope = an_envelope(
        a_reserve(), correlation_id="a", causation_id="b", traceparent="00-c-d-01"
    )
    attributes = orjson.loads(encode(envelope))
    assert attributes["correlationid"] == "a"
    assert attributes["causationid"] == "b"
    assert attributes["traceparent"] == "00-c-d-01"
    assert decode(encode(envelope)) == envelope


def test_a_time_elsewhere_is_the_same_moment_after_a_round_trip() -> None:
    here = datetime(2024, 12, 7, 12, 15, 30, tzinfo=timezone(timedelta(hours=2)))
    assert decode(encode(an_envelope(a_reserve(), time=here))).time == here


def test_the_key_of_an_item_is_its_sku() -> None:
    item = ItemChanged(
        sku="MUG-BLUE", name="Mug", unit_price=1249, currency="EUR", active=True, version=1
    )
    assert item.key == "MUG-BLUE"


@pytest.mark.parametrize(
    "wrong",
    [{"type": "stock.commit.v1"}, {"subject": "another order"}, {"time": datetime(2024, 12, 7)}],  # noqa: DTZ001 - naive is the point
    ids=["type", "subject", "naive time"],
)
def test_an_envelope_that_contradicts_its_data_is_a_programmers_error(
    wrong: dict[str, Any],
) -> None:
    with pytest.raises(AssertionError):
        encode(an_envelope(a_reserve(), **wrong))


def test_messages_are_immutable_all_the_way_down() -> None:
    reserve = a_reserve()
    with pytest.raises(ValueError, match="frozen"):
        reserve.order_id = MESSAGE  # type: ignore[misc]  # mypy sees it too
    assert hash(reserve) == hash(a_reserve())


# What we accept


def test_unknown_fields_and_attributes_are_ignored() -> None:
    data = {
        "order_id": str(ORDER),
        "lines": [{"sku": "MUG-BLUE", "quantity": 2, "gift": True}],
        "priority": "high",
    }
    envelope = decoded_with(data=data, partitionkey="x", dataschema="urn:x")
    assert envelope == an_envelope(a_reserve())


def test_an_optional_attribute_may_be_null() -> None:
    assert decoded_with(traceparent=None).traceparent is None


def test_optional_fields_may_be_left_out() -> None:
    attributes = attributes_of(
        ReservationChanged(order_id=ORDER, state=ReservationState.RELEASED, version=1)
    )
    attributes["data"] = {"order_id": str(ORDER), "state": "released", "version": 1}
    data = decode(orjson.dumps(attributes)).data
    assert data == ReservationChanged(order_id=ORDER, state=ReservationState.RELEASED, version=1)


# What we refuse


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff\xfe", b"null", b"[]", b'"text"', b"7", b"[" * 5000],
    ids=["empty", "cut off", "not UTF-8", "null", "a list", "a text", "a number", "too deep"],
)
def test_what_is_not_a_json_object_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedEnvelope, match=r"^not a JSON object$") as caught:
        decode(raw)
    assert caught.value.type is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("specversion", ...),
        ("specversion", "0.3"),
        ("type", ...),
        ("type", 7),
        ("type", ""),
        ("id", ...),
        ("id", "not-a-uuid"),
        ("id", "x" * 36),
        ("id", "{01939f6e1c1a7b5e9c3d2f6a4e8b1d70}"),
        ("id", 7),
        ("source", ...),
        ("source", ""),
        ("source", "x" * 513),
        ("subject", ...),
        ("subject", {}),
        ("time", ...),
        ("time", "yesterday"),
        ("time", "2024-12-07"),
        ("time", "2024-12-07T10:15:30"),
        ("time", 1733566530),
        ("sequence", ...),
        ("sequence", -1),
        ("sequence", "1"),
        ("sequence", 1.0),
        ("sequence", True),
        ("sequence", 2**31),
        ("correlationid", 7),
        ("causationid", ""),
        ("traceparent", ["00"]),
    ],
)
def test_a_missing_or_wrong_attribute_is_malformed_and_named(name: str, value: Any) -> None:
    with pytest.raises(MalformedEnvelope, match=rf"^(stock\.reserve\.v1: )?{name}: "):
        decoded_with(**{name: value})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"order_id": ...}, "data.order_id: missing"),
        ({"order_id": "7"}, "data.order_id: uuid_parsing"),
        ({"lines": []}, "data.lines: too_short"),
        ({"lines": [{"sku": "A", "quantity": 1}] * 101}, "data.lines: too_long"),
        (
            {"lines": [A_LINE, {"sku": "A", "quantity": 0}]},
            "data.lines.1.quantity: greater_than_equal",
        ),
        (
            {"lines": [A_LINE, {"sku": "A", "quantity": 10**9}]},
            "data.lines.1.quantity: less_than_equal",
        ),
        ({"lines": [A_LINE, {"sku": "A", "quantity": "1"}]}, "data.lines.1.quantity: int_type"),
        ({"lines": [A_LINE, {"sku": "A", "quantity": True}]}, "data.lines.1.quantity: int_type"),
        ({"lines": [A_LINE, {"sku": "A", "quantity": 1.0}]}, "data.lines.1.quantity: int_type"),
        ({"lines": [A_LINE, {"sku": "", "quantity": 1}]}, "data.lines.1.sku: string_too_short"),
        (
            {"lines": [A_LINE, {"sku": "A" * 65, "quantity": 1}]},
            "data.lines.1.sku: string_too_long",
        ),
        (
            {"lines": [A_LINE, {"sku": "A\0", "quantity": 1}]},
            "data.lines.1.sku: string_pattern_mismatch",
        ),
    ],
)
def test_data_that_does_not_fit_is_malformed_and_the_field_is_named(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(MalformedEnvelope) as caught:
        decoded_with_data(**changes)
    assert str(caught.value) == f"stock.reserve.v1: {problem}"
    assert caught.value.type == "stock.reserve.v1"


@pytest.mark.parametrize("data", [..., None, [], "text", 7])
def test_data_that_is_no_object_is_malformed(data: Any) -> None:
    with pytest.raises(MalformedEnvelope, match="data: model_type"):
        decoded_with(data=data)


def test_of_many_problems_the_first_few_are_told() -> None:
    with pytest.raises(MalformedEnvelope, match=r"lines\.5\.quantity: missing; and 5 more$"):
        decoded_with_data(lines=[A_LINE, *[{"sku": "A"}] * 10])


@pytest.mark.parametrize("type_", ["stock.reserve.v2", "stock.reserve.v0", "order.placed.v17"])
def test_a_known_type_at_another_major_is_unsupported(type_: str) -> None:
    with pytest.raises(UnsupportedMajor) as caught:
        decoded_with(type=type_)
    assert caught.value.type == type_


@pytest.mark.parametrize(
    "type_",
    ["parcel.shipped.v1", "stock.reserve", "stock.reserve.v", "stock.reserve.v1.v1", "v1", ".v1"],
)
def test_any_other_type_is_unknown(type_: str) -> None:
    with pytest.raises(UnknownType) as caught:
        decoded_with(type=type_)
    assert caught.value.type == type_


@pytest.mark.parametrize("type_", ["parcel.shipped.v1", "stock.reserve.v2"])
def test_what_is_not_for_us_need_not_follow_our_rules(type_: str) -> None:
    with pytest.raises((UnknownType, UnsupportedMajor)):
        decode(orjson.dumps({"type": type_}))


@pytest.mark.parametrize(
    "attributes",
    [
        {"id": SECRET},
        {"source": SECRET * 100},
        {"subject": [SECRET]},
        {"time": SECRET},
        {"sequence": SECRET},
        {"correlationid": {"name": SECRET}},
        {"data": SECRET},
        {"data": {"order_id": SECRET, "lines": SECRET}},
        {"data": {"order_id": str(ORDER), "lines": [{"sku": SECRET * 10, "quantity": SECRET}]}},
        {"data": {SECRET: SECRET}},
    ],
)
def test_an_error_never_repeats_a_value_not_even_in_its_stack_trace(
    attributes: dict[str, Any],
) -> None:
    with pytest.raises(MalformedEnvelope) as caught:
        decoded_with(**attributes)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_broken_json_is_not_repeated_either() -> None:
    with pytest.raises(MalformedEnvelope) as caught:
        decode(b'{"name": "' + SECRET.encode())
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("error", [MalformedEnvelope, UnsupportedMajor, UnknownType])
def test_every_error_is_a_contract_error_with_a_code_of_its_own(
    error: type[ContractError],
) -> None:
    assert issubclass(error, ContractError)
    assert error.code != ContractError.code


# Whatever the schemas allow


def values_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What a schema of ours allows, as JSON; knows the keywords that we use and no others."""
    match schema:
        case {"const": value}:
            return st.just(value)
        case {"enum": values}:
            return st.sampled_from(values)
        case {"anyOf": alternatives}:
            return st.one_of(*map(values_of, alternatives))
        case {"type": "object"}:
            required = set(schema.get("required", ()))
            fields = {name: values_of(field) for name, field in schema["properties"].items()}
            return st.fixed_dictionaries(
                {name: field for name, field in fields.items() if name in required},
                optional={name: field for name, field in fields.items() if name not in required},
            )
        case {"type": "array"}:
            at_least = schema.get("minItems", 0)
            return st.lists(values_of(schema["items"]), min_size=at_least, max_size=3)
        case {"type": "integer"}:
            return st.integers(schema["minimum"], schema["maximum"])
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "null"}:
            return st.none()
        case {"type": "string"}:
            return texts_of(schema)
    raise AssertionError(schema)


def texts_of(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    match schema:
        case {"format": "uuid"}:
            return st.uuids().map(str)
        case {"format": "date-time"}:
            # Away from both ends, where a change of zone would leave the calendar.
            return st.datetimes(
                datetime(1, 1, 3),  # noqa: DTZ001 - the zone is drawn apart
                datetime(9999, 12, 28),  # noqa: DTZ001
                timezones=st.integers(-720, 720).map(lambda m: timezone(timedelta(minutes=m))),
            ).map(datetime.isoformat)
    characters = st.characters(codec="utf-8")
    low, high = schema.get("minLength", 0), schema.get("maxLength", 64)
    if "pattern" not in schema:
        return st.text(characters, min_size=low, max_size=min(high, 64))
    texts = st.from_regex(schema["pattern"], fullmatch=True, alphabet=characters)
    return texts.filter(lambda text: low <= len(text) <= high)


@pytest.mark.parametrize("type_", MESSAGES)
@settings(max_examples=50)  # for each type
@given(draw=st.data())
def test_whatever_a_schema_allows_is_decoded_and_survives_the_round_trip(
    type_: str, draw: st.DataObject
) -> None:
    model = MESSAGES[type_]
    attributes = draw.draw(values_of(message_schema(model)))
    # The one rule that a schema cannot say.
    attributes["subject"] = attributes["data"][model.TOPIC.key]
    envelope = decode(orjson.dumps(attributes))
    assert type(envelope.data) is model
    assert decode(encode(envelope)) == envelope
    for name, value in attributes["data"].items():
        if isinstance(value, (int, type(None))):
            assert getattr(envelope.data, name) == value


@given(raw=st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["specversion", "type", "id", "data", "time"]), inner
    ),
).map(orjson.dumps))  # fmt: skip
def test_no_bytes_at_all_raise_anything_but_a_contract_error(raw: bytes) -> None:
    with pytest.raises(ContractError):
        decode(raw)


def test_a_hot_message_is_handled_within_a_generous_budget() -> None:
    """A guard against a tenfold slip (measured: 2 to 3 µs to encode, 6 to 8 µs to decode)."""
    data = PaymentChanged(
        order_id=ORDER,
        payment_id=ORDER,
        state=PaymentState.CAPTURED,
        version=2,
        currency="EUR",
        amount=100,
        captured=100,
        refunded=0,
    )
    raw = encode(an_envelope(data))
    fastest_s = min(timed(raw) for _ in range(50))
    assert fastest_s < 300e-6


def timed(raw: bytes) -> float:
    start = perf_counter()
    encode(decode(raw))
    return perf_counter() - start


def test_a_command_without_lines_is_only_about_its_order() -> None:
    assert decode(encode(an_envelope(StockCommit(order_id=ORDER)))).data.key == str(ORDER)
