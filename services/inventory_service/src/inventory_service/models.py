"""Items, stock levels, reservations and movements: what they are and what may happen to them.

No session and no I/O. The objects are loaded and locked by `repository`, changed here by their verbs, and
written back in bulk; nothing is flushed. The bounds and CHECKs of the columns stand in the migrations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from ecom_common.ids import new_id
from ecom_common.safeguards import is_off
from ecom_common.tables import NAMING
from ecom_contracts.messages import ReservationState
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SERVICE: Final = "inventory_service"
SCHEMA_VERSION: Final = "2"
"""The highest migration, which this code needs."""

MAX_ON_HAND: Final = 10**12
"""Most units of one SKU that people may record."""


class MovementKind(StrEnum):
    """Why on_hand changes: by people (received, adjusted, counted) or by an order."""

    RECEIVED = "received"
    ADJUSTED = "adjusted"
    COUNTED = "counted"
    COMMITTED = "committed"
    RESTOCKED = "restocked"


class Trigger(StrEnum):
    """What can happen to a reservation."""

    HOLD = "hold"
    REFUSE = "refuse"
    COMMIT = "commit"
    RELEASE = "release"
    EXPIRE = "expire"


TRANSITIONS: Final[Mapping[tuple[ReservationState, Trigger], ReservationState]] = {
    (ReservationState.NONE, Trigger.HOLD): ReservationState.HELD,
    (ReservationState.NONE, Trigger.REFUSE): ReservationState.REFUSED,
    # A tombstone: the reserve that comes after its release holds nothing.
    (ReservationState.NONE, Trigger.RELEASE): ReservationState.RELEASED,
    (ReservationState.HELD, Trigger.COMMIT): ReservationState.COMMITTED,
    (ReservationState.HELD, Trigger.RELEASE): ReservationState.RELEASED,
    (ReservationState.HELD, Trigger.EXPIRE): ReservationState.RELEASED,
    (ReservationState.COMMITTED, Trigger.RELEASE): ReservationState.RESTOCKED,
}
"""The whole state machine of a reservation. Whatever it does not name changes nothing."""


metadata: Final = MetaData(naming_convention=NAMING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemContent:
    """What a seller says about an item."""

    name: str
    description: str | None
    unit_price: int
    """Minor units."""
    currency: str
    active: bool


ITEMS: Final = Table(
    "items",
    metadata,
    Column("sku", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("unit_price", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.db_now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.db_now()),
)


@dataclass(slots=True)
class Item:
    """Something that is sold. A change makes a new object, so that earlier answers keep theirs.

    Its fields are the columns of `ITEMS`.
    """

    sku: str
    name: str
    description: str | None
    unit_price: int
    currency: str
    active: bool
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def list_new(cls, sku: str, content: ItemContent, now: datetime) -> "Item":
        return cls(sku=sku, version=1, created_at=now, updated_at=now, **asdict(content))

    def revise(self, content: ItemContent, now: datetime) -> "Item":
        """The item with this content: itself when nothing differs, else its next version."""
        if content == self.content:
            return self
        return replace(self, version=self.version + 1, updated_at=now, **asdict(content))

    @property
    def content(self) -> ItemContent:
        return ItemContent(
            name=self.name,
            description=self.description,
            unit_price=self.unit_price,
            currency=self.currency,
            active=self.active,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a movement comes from."""

    cause: str
    """What made it, at most once for each SKU: see `order_cause` and `key_cause`."""
    actor: str
    at: datetime
    reason: str | None = None


def order_cause(order_id: UUID, kind: MovementKind) -> str:
    return f"order:{order_id}:{kind}"


def key_cause(*, subject: str, key: str) -> str:
    return f"key:{subject}:{key}"


MOVEMENTS: Final = Table(
    "movements",
    metadata,
    Column("sku", Text, ForeignKey("stock_levels.sku"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("on_hand_after", BigInteger, nullable=False),
    Column("cause", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.db_now()),
    UniqueConstraint("sku", "cause"),
)


@dataclass(slots=True)
class Movement:
    """One entry of the ledger, never changed: so many units came or went, and how many were left.

    Its fields are the columns of `MOVEMENTS`.
    """

    sku: str
    sequence: int
    """The version that the stock level took with it: this orders the ledger."""
    id: UUID
    kind: MovementKind
    quantity: int
    """Signed."""
    on_hand_after: int
    cause: str
    actor: str
    reason: str | None
    created_at: datetime

    def __post_init__(self) -> None:
        self.kind = MovementKind(self.kind)

    @property
    def order_id(self) -> UUID | None:
        """The order that made it; None for people's movements."""
        origin, _, rest = self.cause.partition(":")
        return UUID(rest.partition(":")[0]) if origin == "order" else None


STOCK_LEVELS: Final = Table(
    "stock_levels",
    metadata,
    Column("sku", Text, ForeignKey("items.sku"), primary_key=True),
    Column("on_hand", BigInteger, nullable=False, server_default=text("0")),
    Column("reserved", BigInteger, nullable=False, server_default=text("0")),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
)


@dataclass(slots=True)
class StockLevel:
    """How many units of a SKU there are, and how many of those are promised.

    on_hand is the sum of the SKU's movements, reserved the sum of its held lines. The verbs' demands
    (never more than is available) are asserted here and enforced by a CHECK of the table.
    """

    sku: str
    on_hand: int
    reserved: int
    version: int
    for_sale: bool = False
    """Whether its item is active; read together with the level."""

    @classmethod
    def empty(cls, sku: str) -> "StockLevel":
        return cls(sku=sku, on_hand=0, reserved=0, version=1, for_sale=True)

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved

    def covers(self, quantity: int) -> bool:
        """Whether so many may be reserved."""
        return quantity <= self.available or is_off("oversell-check")

    def reserve(self, quantity: int) -> None:
        assert quantity > 0
        assert self.covers(quantity), "ask for shortages first"
        self.reserved += quantity
        self.version += 1

    def release(self, quantity: int) -> None:
        assert 0 < quantity <= self.reserved
        self.reserved -= quantity
        self.version += 1

    def commit(self, quantity: int, origin: Origin) -> Movement:
        """What was reserved leaves the house."""
        assert 0 < quantity <= self.reserved
        self.reserved -= quantity
        return self.move(MovementKind.COMMITTED, -quantity, origin)

    def restock(self, quantity: int, origin: Origin) -> Movement:
        """What had left comes back."""
        assert quantity > 0
        return self.move(MovementKind.RESTOCKED, quantity, origin)

    def move(self, kind: MovementKind, quantity: int, origin: Origin) -> Movement:
        """Change on_hand by the signed `quantity`, and tell the ledger."""
        left = self.on_hand + quantity
        assert left >= self.reserved or is_off("oversell-check"), "ask what is reserved first"
        self.on_hand += quantity
        self.version += 1
        return Movement(
            sku=self.sku,
            sequence=self.version,
            id=new_id(),
            kind=kind,
            quantity=quantity,
            on_hand_after=self.on_hand,
            cause=origin.cause,
            actor=origin.actor,
            reason=origin.reason,
            created_at=origin.at,
        )


@dataclass
class Stock:
    """The stock levels that a batch has locked, by SKU, and the movements it has made of them."""

    levels: dict[str, StockLevel]
    movements: list[Movement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._before = {sku: (level.version, level.reserved) for sku, level in self.levels.items()}

    def add(self, level: StockLevel) -> None:
        """A level that the batch itself creates."""
        self.levels[level.sku] = level
        self._before[level.sku] = (level.version, level.reserved)

    def changed(self) -> tuple[list[StockLevel], list[StockLevel]]:
        """The changed levels: those with fewer reserved than before, and the others."""
        fewer: list[StockLevel] = []
        others: list[StockLevel] = []
        for sku, level in self.levels.items():
            version, reserved = self._before[sku]
            if level.version != version:
                (fewer if level.reserved < reserved else others).append(level)
        return fewer, others


RESERVATION_LINES: Final = Table(
    "reservation_lines",
    metadata,
    Column("order_id", Uuid, ForeignKey("reservations.order_id"), primary_key=True),
    Column("sku", Text, primary_key=True),
    Column("quantity", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class ReservationLine:
    """So many units of one SKU that an order asked for."""

    order_id: UUID
    sku: str
    quantity: int


RESERVATIONS: Final = Table(
    "reservations",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("state", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("shortages", JSONB, nullable=False, server_default=text("'[]'")),
    Column("expires_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.db_now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.db_now()),
    Index(None, "expires_at", postgresql_where=text("state = 'held'")),
)


@dataclass(slots=True, eq=False)
class Reservation:
    """What an order has been promised: all of its lines, or nothing. Its fields are the columns of `RESERVATIONS`.

    Each verb tells whether it changed anything; one that `TRANSITIONS` does not name does not.
    """

    order_id: UUID
    state: ReservationState
    version: int
    shortages: list[dict[str, Any]]
    expires_at: datetime | None
    created_at: datetime | None
    updated_at: datetime | None
    lines: list[ReservationLine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = ReservationState(self.state)

    @classmethod
    def never_asked(cls, order_id: UUID) -> "Reservation":
        """The reservation of an order that we have not heard of; never stored as it is."""
        return cls(
            order_id=order_id,
            state=ReservationState.NONE,
            version=0,
            shortages=[],
            expires_at=None,
            created_at=None,
            updated_at=None,
        )

    @property
    def is_tombstone(self) -> bool:
        """Whether it was released before anything was asked for."""
        return self.state is ReservationState.RELEASED and self.version == 1

    @property
    def moves_stock(self) -> bool:
        """Whether a commit or a release would change stock levels."""
        return self.state in (ReservationState.HELD, ReservationState.COMMITTED)

    def hold(self, quantities: Mapping[str, int], *, now: datetime, ttl: timedelta) -> bool:
        """Promise these quantities by SKU, until `now + ttl`."""
        if not self._turn(Trigger.HOLD, now):
            return False
        self._ask_for(quantities)
        self.expires_at = now + ttl
        return True

    def refuse(
        self,
        quantities: Mapping[str, int],
        shortages: Sequence[dict[str, Any]],
        *,
        now: datetime,
    ) -> bool:
        """Promise nothing, because of the `shortages` (sku, requested, available)."""
        assert shortages
        if not self._turn(Trigger.REFUSE, now):
            return False
        self._ask_for(quantities)
        self.shortages = list(shortages)
        return True

    def commit(self, now: datetime) -> bool:
        return self._turn(Trigger.COMMIT, now)

    def release(self, now: datetime) -> bool:
        return self._turn(Trigger.RELEASE, now)

    def expire(self, now: datetime) -> bool:
        """Release what is held, if its time has passed."""
        due = self.expires_at is not None and self.expires_at <= now
        return due and self._turn(Trigger.EXPIRE, now)

    def _turn(self, trigger: Trigger, now: datetime) -> bool:
        state = TRANSITIONS.get((self.state, trigger))
        if state is None:
            return False
        if self.version == 0:
            self.created_at = now
        self.state = state
        self.version += 1
        self.updated_at = now
        self.expires_at = None
        return True

    def _ask_for(self, quantities: Mapping[str, int]) -> None:
        self.lines = [
            ReservationLine(order_id=self.order_id, sku=sku, quantity=quantity)
            for sku, quantity in sorted(quantities.items())
        ]
