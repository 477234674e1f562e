"""The envelope around every message: CloudEvents 1.0, structured JSON, whole in the Kafka value.

Owns the bytes on the wire, both ways, and the errors that bytes from elsewhere can cause.
Kafka headers are informative only; nothing here reads them. A null value on a compacted topic
is a tombstone and never comes here.

    ContractError
    ├── MalformedEnvelope    not what was agreed: to the dead letters
    ├── UnsupportedMajor     a type we know, at a major we do not: to the dead letters, since it
    │                        was meant for us and a newer consumer can be given it again
    └── UnknownType          not meant for us: acknowledged and counted

No error repeats a value of the data, which may hold personal data: only field paths, the kind of
problem, and the type. None keeps the library's own error as its cause or context either, because
those repeat their input in a stack trace.

This is a hot path (thousands a second): the few attributes of the envelope are checked by hand,
and only the data goes through pydantic.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final, Generic, TypeVar
from uuid import UUID

import orjson
from pydantic import ValidationError

from ecom_contracts.messages import MAX_VERSION, MESSAGES, Message

SPEC_VERSION: Final = "1.0"
CONTENT_TYPE: Final = "application/json"
# Long enough for any id, source or trace context of ours; keeps a hostile one out of the logs.
MAX_ATTRIBUTE_LENGTH: Final = 512
MAX_PROBLEMS_REPORTED: Final = 5

M_co = TypeVar("M_co", bound=Message, covariant=True)


class ContractError(Exception):
    """Bytes that are no message of ours. `type` is the message type, as far as it was readable."""

    code: ClassVar[str] = "contract_error"

    def __init__(self, detail: str, *, type: str | None = None) -> None:  # noqa: A002 - its name
        super().__init__(detail if type is None else f"{type}: {detail}")
        self.type = type


class MalformedEnvelope(ContractError):
    """Broken JSON, a missing or wrong attribute, or data that does not fit its schema."""

    code = "malformed_envelope"


class UnsupportedMajor(ContractError):
    """A known type at a major version that this build does not know."""

    code = "unsupported_major"


class UnknownType(ContractError):
    """A type that this build does not know at all."""

    code = "unknown_type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope(Generic[M_co]):
    """One message with its CloudEvents attributes."""

    id: UUID
    """A uuid7, new for each message; the inbox knows a message by it."""
    source: str
    """Who publishes: the service's package name."""
    type: str
    """The name and major version in `MESSAGES`; `data.TYPE`."""
    subject: str
    """The Kafka key; `data.key`."""
    time: datetime
    """When it happened; aware."""
    sequence: int
    """The publishing aggregate's version; only for dropping what is older than known."""
    correlation_id: str | None = None
    """What set all of this off, the same along the whole chain."""
    causation_id: str | None = None
    """The id of the message or request that directly caused this one."""
    traceparent: str | None = None
    """W3C trace context."""
    data: M_co


def encode(envelope: Envelope[Message]) -> bytes:
    """The Kafka value. Attributes that are None are left out.

    A type or subject that disagrees with the data is a programmer's error, hence asserts.
    """
    data = envelope.data
    assert envelope.type == data.TYPE, f"{envelope.type} is not {data.TYPE}"
    assert envelope.subject == data.key, "the subject must be the key of the data"
    assert envelope.time.tzinfo is not None, "the time must be aware"
    attributes: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "subject": envelope.subject,
        "time": envelope.time,
        "datacontenttype": CONTENT_TYPE,
        "sequence": envelope.sequence,
    }
    if envelope.correlation_id is not None:
        attributes["correlationid"] = envelope.correlation_id
    if envelope.causation_id is not None:
        attributes["causationid"] = envelope.causation_id
    if envelope.traceparent is not None:
        attributes["traceparent"] = envelope.traceparent
    # The data is serialised once, by the compiled serializer, and pasted in as it is.
    attributes["data"] = orjson.Fragment(data.__pydantic_serializer__.to_json(data))
    return orjson.dumps(attributes, option=orjson.OPT_UTC_Z)


def decode(raw: bytes) -> Envelope[Message]:
    """The message in a Kafka value; raises one of the `ContractError`s above.

    Whose type it is gets decided before anything else is looked at: what is not meant for us
    need not be well-formed by our rules.
    """
    attributes = _json_object(raw)
    type_ = _text(attributes, "type")
    model = MESSAGES.get(type_)
    if model is None:
        raise _unknown(type_)
    if attributes.get("specversion") != SPEC_VERSION:
        raise _malformed(attributes, "specversion: not 1.0")
    return Envelope(
        id=_uuid(attributes, "id"),
        source=_text(attributes, "source"),
        type=type_,
        subject=_text(attributes, "subject"),
        time=_aware_time(attributes, "time"),
        sequence=_version(attributes, "sequence"),
        correlation_id=_optional_text(attributes, "correlationid"),
        causation_id=_optional_text(attributes, "causationid"),
        traceparent=_optional_text(attributes, "traceparent"),
        data=_data(attributes, model),
    )


_Attributes = dict[str, Any]

_MAJOR: Final = re.compile(r"(?P<name>.+)\.v[0-9]+")
_KNOWN_NAMES: Final = frozenset(type_.rpartition(".v")[0] for type_ in MESSAGES)


def _unknown(type_: str) -> ContractError:
    named = _MAJOR.fullmatch(type_)
    if named is not None and named["name"] in _KNOWN_NAMES:
        return UnsupportedMajor("no such major version here", type=type_)
    return UnknownType("no such message type here", type=type_)


def _malformed(attributes: _Attributes, detail: str) -> MalformedEnvelope:
    type_ = attributes.get("type")
    known = isinstance(type_, str) and type_ in MESSAGES
    return MalformedEnvelope(detail, type=type_ if known else None)


# Below, errors are raised after the except block, not in it: inside, Python would attach the
# library's error, and its input, to ours.


def _json_object(raw: bytes) -> _Attributes:
    try:
        attributes = orjson.loads(raw)
    except orjson.JSONDecodeError:
        attributes = None
    if not isinstance(attributes, dict):
        raise MalformedEnvelope("not a JSON object")
    return attributes


def _text(attributes: _Attributes, name: str) -> str:
    value = attributes.get(name)
    if type(value) is str and 0 < len(value) <= MAX_ATTRIBUTE_LENGTH:
        return value
    raise _malformed(attributes, f"{name}: not a text of 1 to {MAX_ATTRIBUTE_LENGTH} characters")


def _optional_text(attributes: _Attributes, name: str) -> str | None:
    return None if attributes.get(name) is None else _text(attributes, name)


def _uuid(attributes: _Attributes, name: str) -> UUID:
    value = attributes.get(name)
    # The length excludes the braced and undashed spellings, which UUID() would take.
    if type(value) is str and len(value) == 36:
        with suppress(ValueError):
            return UUID(value)
    raise _malformed(attributes, f"{name}: not a UUID")


def _aware_time(attributes: _Attributes, name: str) -> datetime:
    value = attributes.get(name)
    if type(value) is str:
        with suppress(ValueError):
            time = datetime.fromisoformat(value)
            if time.tzinfo is not None:
                return time
    raise _malformed(attributes, f"{name}: not an RFC 3339 time with its offset")


def _version(attributes: _Attributes, name: str) -> int:
    value = attributes.get(name)
    # `type(...) is` and not isinstance: true is no version.
    if type(value) is int and 0 <= value <= MAX_VERSION:
        return value
    raise _malformed(attributes, f"{name}: not an integer from 0 to {MAX_VERSION}")


def _data(attributes: _Attributes, model: type[Message]) -> Message:
    try:
        return model.model_validate(attributes.get("data"))
    except ValidationError as error:
        problems = _problems(error)
    raise _malformed(attributes, problems)


def _problems(error: ValidationError) -> str:
    """Paths and kinds only: pydantic's messages quote the input."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"{'.'.join(map(str, ('data', *detail['loc'])))}: {detail['type']}"
        for detail in details[:MAX_PROBLEMS_REPORTED]
    ]
    if len(details) > MAX_PROBLEMS_REPORTED:
        told.append(f"and {len(details) - MAX_PROBLEMS_REPORTED} more")
    return "; ".join(told)
