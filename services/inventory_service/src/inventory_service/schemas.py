"""What HTTP clients send and get.

What is sent is checked whole: unknown fields, loose types, control characters, card numbers in texts. SKUs
are exempt from the last: a legal EAN-13 can read as a card number.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from ecom_common.cards import NoCardNumber
from ecom_common.money import Currency, Price
from ecom_contracts.messages import ReservationState
from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from inventory_service.models import MAX_ON_HAND, MovementKind

MAX_QUERY_CHARS: Final = 255

# Letters, digits and what RFC 3986 §2.3 leaves unescaped, so that a SKU can stand in any URL; not at the
# start, because `.` and `..` would be somebody else's path.
SKU_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,63}$"
# One line that is not blank, and any text but for control characters other than tabs and line ends.
_LINE: Final = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$"
_TEXT: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"

SkuInPath = Annotated[
    str, Path(pattern=SKU_PATTERN, description="The seller's own key.", examples=["MUG-BLUE"])
]
OrderIdInPath = Annotated[UUID, Path(examples=["01939f6e-1c1a-7b5e-9c3d-2f6a4e8b1d70"])]
Containing = Annotated[
    str | None,
    Query(
        max_length=MAX_QUERY_CHARS,
        pattern=_TEXT,
        description="Part of the SKU or the name, in any case.",
        examples=["mug"],
    ),
]
Reason = Annotated[
    str, Field(min_length=1, max_length=500, pattern=_LINE, examples=["two broken"]), NoCardNumber
]


def _not_zero(quantity: int) -> int:
    if quantity == 0:
        raise ValueError("must not be 0")
    return quantity


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ItemIn(_Sent):
    """An item's whole content: what is left out is emptied or takes its default."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Blue mug",
                    "description": "Stoneware, 350 ml.",
                    "unit_price": 1249,
                    "currency": "EUR",
                }
            ]
        }
    )

    name: Annotated[str, Field(min_length=1, max_length=255, pattern=_LINE), NoCardNumber]
    description: Annotated[str, Field(max_length=10_000, pattern=_TEXT), NoCardNumber] | None = None
    unit_price: Price
    currency: Currency
    active: Annotated[bool, Field(strict=True, description="Whether it can be ordered.")] = True


class _MovementIn(_Sent):
    reason: Reason | None = None


class ReceivedIn(_MovementIn):
    """Units came in."""

    kind: Literal[MovementKind.RECEIVED]
    quantity: Annotated[int, Field(strict=True, ge=1, le=MAX_ON_HAND, examples=[100])]


class AdjustedIn(_Sent):
    """The level was wrong by so many units, for a reason."""

    kind: Literal[MovementKind.ADJUSTED]
    quantity: Annotated[
        int,
        Field(
            strict=True,
            ge=-MAX_ON_HAND,
            le=MAX_ON_HAND,
            json_schema_extra={"not": {"const": 0}},
            examples=[-2],
        ),
        AfterValidator(_not_zero),
    ]
    reason: Reason


class CountedIn(_MovementIn):
    """Somebody counted: this is on_hand now."""

    kind: Literal[MovementKind.COUNTED]
    quantity: Annotated[int, Field(strict=True, ge=0, le=MAX_ON_HAND, examples=[98])]


MovementIn = Annotated[ReceivedIn | AdjustedIn | CountedIn, Field(discriminator="kind")]


class _Shown(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class ItemOut(_Shown):
    sku: str = Field(examples=["MUG-BLUE"])
    name: str = Field(examples=["Blue mug"])
    description: str | None = Field(examples=["Stoneware, 350 ml."])
    unit_price: int = Field(description="Minor units.", examples=[1249])
    currency: str = Field(examples=["EUR"])
    active: bool
    version: int = Field(examples=[1])
    created_at: datetime
    updated_at: datetime


class StockOut(_Shown):
    sku: str = Field(examples=["MUG-BLUE"])
    on_hand: int = Field(description="Units in the house.", examples=[100])
    reserved: int = Field(description="Of these, promised to orders.", examples=[3])
    available: int = Field(description="The rest.", examples=[97])
    version: int = Field(examples=[7])


class MovementOut(_Shown):
    id: UUID
    sku: str = Field(examples=["MUG-BLUE"])
    kind: MovementKind
    quantity: int = Field(description="Signed change of on_hand.", examples=[100])
    on_hand_after: int = Field(examples=[100])
    order_id: UUID | None = Field(description="The order that caused it, if one did.")
    actor: str = Field(description="Who recorded it.", examples=["warehouse-7"])
    reason: str | None
    created_at: datetime


class LineOut(_Shown):
    sku: str = Field(examples=["MUG-BLUE"])
    quantity: int = Field(examples=[2])


class ShortageOut(_Shown):
    sku: str = Field(examples=["TEE-M"])
    requested: int = Field(examples=[1])
    available: int = Field(examples=[0])


class ReservationOut(_Shown):
    order_id: UUID
    state: ReservationState
    lines: list[LineOut] = Field(description="What was asked for; empty for a tombstone.")
    shortages: list[ShortageOut] = Field(description="Why it was refused.")
    expires_at: datetime | None = Field(description="When it releases itself, while it is held.")
    version: int = Field(examples=[1])
    created_at: datetime
    updated_at: datetime


class ItemPage(_Shown):
    items: list[ItemOut]
    next_cursor: str | None = Field(description="For the next page; null at the end.")


class MovementPage(_Shown):
    items: list[MovementOut]
    next_cursor: str | None = Field(description="For the next page; null at the end.")


def to_json(shape: type[_Shown], values: Any) -> bytes:
    """`values`, an object or a mapping, in the shape of a schema, as JSON."""
    return shape.__pydantic_serializer__.to_json(shape.model_validate(values))
