"""Builders for the order service's tests; a `Store`: its use cases on one database; and its `Api`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import httpx
import psycopg2
from ecom_common.batch import Failed, apply_batch
from ecom_common.database import Sessions, make_engine, make_sessions
from ecom_common.idempotency import fingerprint
from ecom_common.ids import new_id
from ecom_common.messages import Received
from ecom_contracts.envelope import Envelope, decode
from ecom_contracts.messages import (
    ItemChanged,
    Message,
    PaymentChanged,
    PaymentState,
    ReservationChanged,
    ReservationState,
)
from ecom_local.instance import Instance
from ecom_local.tokens import AUDIENCE, ISSUER, jwks_path
from order_service import repository
from order_service.app import create_app
from order_service.commands import Cancelled, CancelOrder, Command, Placed, PlaceOrder, Result
from order_service.models import HistoryEntry, Order
from order_service.service import OrderDesk
from order_service.settings import Settings
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.support.databases import Databases
from tests.support.envelopes import an_envelope
from tests.support.serving import served

A_TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "environment": "development",
        "database_url": "postgresql://nobody@127.0.0.1/none",
        "jwt_jwks": "none",
        "jwt_issuer": "tests",
        "jwt_audience": "tests",
        "http_port": 1,
    }
    return Settings(**(values | changes))


def a_desk(**changes: Any) -> OrderDesk:
    """A desk that waits exactly as long as the settings say, without jitter."""
    return OrderDesk(settings(**changes), jitter=lambda least, most: (least + most) / 2)


def a_wish(quantities: dict[str, int], **changes: Any) -> PlaceOrder:
    """A placement with fresh ids and keys; `changes` overrides any field."""
    values: dict[str, Any] = {
        "order_id": new_id(),
        "customer_id": "alice",
        "idempotency_key": str(new_id()),
        "fingerprint": fingerprint(quantities),
        "currency": "EUR",
        "quantities": quantities,
        "payment_method": "pm_card_visa",
        "checkout_id": None,
        "expected_total": None,
        "traceparent": None,
    }
    return PlaceOrder(**(values | changes))


def an_item(sku: str, price: int = 500, **changes: Any) -> dict[str, Any]:
    """A row of the catalogue's read model."""
    values = {
        "sku": sku,
        "name": sku.title(),
        "unit_price": price,
        "currency": "EUR",
        "active": True,
        "version": 1,
    }
    return values | changes


def catalogue_of(sessions: Sessions, **prices: int) -> None:
    """Make these SKUs known, at these prices."""
    with sessions.begin() as session:
        repository.save_catalogue(session, [an_item(sku, price) for sku, price in prices.items()])


def received(data: Message, **attributes: Any) -> Received:
    """A message as it comes from the broker."""
    return Received(an_envelope(data, **attributes), data.TOPIC.name, partition=2, offset=7)


def stock(order_id: UUID, state: str, version: int, **attributes: Any) -> Received:
    data = ReservationChanged(order_id=order_id, state=ReservationState(state), version=version)
    return received(data, **attributes)


def payment(order_id: UUID, state: str, version: int, **attributes: Any) -> Received:
    data = PaymentChanged(
        order_id=order_id,
        state=PaymentState(state),
        version=version,
        currency="EUR",
        amount=500,
        captured=0,
        refunded=0,
    )
    return received(data, **attributes)


def item_changed(sku: str, version: int, **changes: Any) -> Received:
    return received(ItemChanged(**an_item(sku, version=version, **changes)))


@dataclass
class Store:
    """One database of the order service, its use cases, and a clock that can be moved."""

    sessions: Sessions
    desk: OrderDesk = field(default_factory=a_desk)
    offset_s: float = 0

    def place(self, quantities: dict[str, int], **changes: Any) -> UUID:
        """Place an order that nothing speaks against; its id."""
        result = self.run(a_wish(quantities, **changes))
        assert isinstance(result, Placed), result
        return result.order.id

    def run(self, command: Command) -> Result:
        """The command's result, after as many tries as a batcher has."""
        (outcome,) = apply_batch(self.sessions, self._handle, [command], name="tests")
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome

    def run_all(self, commands: Sequence[Command]) -> list[Result]:
        """The results of one batch in one transaction: tried once, never replayed singly."""
        with self.sessions.begin() as session:
            return self._handle(session, commands)

    def _handle(self, session: Session, commands: Sequence[Command]) -> list[Result]:
        self.shift(session)
        return self.desk.handle_commands(session, commands)

    def cancel(self, order_id: UUID, *, customer: str | None = "alice") -> Result:
        """Cancel as a customer, or as an operator when that is None."""
        return self.run(CancelOrder(order_id, customer, actor=customer or "olga"))

    def accepted(self, order_id: UUID, *, customer: str | None = "alice") -> Order:
        result = self.cancel(order_id, customer=customer)
        assert isinstance(result, Cancelled), result
        return result.order

    def learn(self, *messages: Received) -> None:
        """Take these in, as one batch."""
        with self.sessions.begin() as session:
            self.shift(session)
            self.desk.learn(session, messages)

    def confirm(self, order_id: UUID) -> None:
        """Let the participants do what the order asks of them."""
        self.learn(stock(order_id, "held", 1))
        self.learn(payment(order_id, "processing", 1), payment(order_id, "captured", 2))
        self.learn(stock(order_id, "committed", 2))
        assert self.order(order_id).status == "confirmed"

    def sweep(self, most: int = 100) -> int:
        with self.sessions.begin() as session:
            self.shift(session)
            return self.desk.sweep(session, most=most)

    def lift_flag(self, order_id: UUID, note: str | None = None) -> bool:
        with self.sessions.begin() as session:
            self.shift(session)
            return self.desk.lift_flag(session, order_id, actor="olga", note=note)

    def wait(self, seconds: float) -> None:
        """Move the database's clock for what comes next."""
        self.offset_s += seconds

    def shift(self, session: Session) -> None:
        offset = f"{self.offset_s} seconds"
        session.execute(text("SELECT set_config('ecom.clock_offset', :o, true)"), {"o": offset})

    def order(self, order_id: UUID) -> Order:
        with self.sessions() as session:
            return repository.load_orders(session, [order_id])[order_id]

    def history(self, order_id: UUID) -> Sequence[HistoryEntry]:
        with self.sessions() as session:
            return repository.history(session, order_id)

    def changes(self, order_id: UUID) -> list[str]:
        return [entry.kind for entry in self.history(order_id)]

    def published(self) -> list[Envelope[Message]]:
        """What the outbox holds and the relay would send now; it is empty afterwards."""
        with self.sessions.begin() as session:
            rows = session.execute(text("DELETE FROM outbox RETURNING id, topic, key, payload"))
            found = [(row, decode(bytes(row.payload))) for row in sorted(rows)]
        for row, envelope in found:
            assert (row.topic, row.key) == (envelope.data.TOPIC.name, envelope.subject)
        return [envelope for _, envelope in found]

    def said(self) -> list[str]:
        """The types of what was published since the last time."""
        return [envelope.type for envelope in self.published()]

    def count(self, table: str) -> int:
        with self.sessions() as session:
            return session.scalar(text(f"SELECT count(*) FROM {table}")) or 0


@contextmanager
def emptied_stores(databases: Databases) -> Iterator[Callable[[], Store]]:
    """A function that empties a database, which all its stores share, and knows tea and mugs again.

    A tenth of what a new database for each test would cost.
    """
    name = databases.fresh("orderdb")
    owner = databases.engine(name, "order_owner", pool_size=1)
    sessions = databases.sessions(name, "order_service")
    tables = ("order_history", "order_lines", "orders", "catalogue_items", *_CHASSIS)

    def empty() -> Store:
        with owner.begin() as connection:
            for table in tables:
                connection.execute(text(f"DELETE FROM {table}"))
        catalogue_of(sessions, tea=500, mug=1250)
        return Store(sessions)

    yield empty
    sessions.kw["bind"].dispose()
    owner.dispose()


_CHASSIS: Final = ("outbox", "inbox", "idempotency_keys")
CUSTOMER: Final = "orders:read orders:write"
STAFF: Final = "orders:read orders:write orders:admin"


@dataclass(frozen=True)
class Api:
    """The order service over HTTP, and its database from another process' side."""

    http: httpx.Client
    instance: Instance
    store: Store

    def auth(self, customer: str = "alice", scope: str = CUSTOMER) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.instance.token(sub=customer, scope=scope)}"}

    def post(
        self,
        body: object,
        *,
        customer: str = "alice",
        key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Place an order; with a fresh key unless one is given."""
        given = self.auth(customer) | {"Idempotency-Key": key or str(new_id())} | (headers or {})
        if isinstance(body, bytes):
            given["Content-Type"] = "application/json"
            return self.http.post("/v1/orders", content=body, headers=given)
        return self.http.post("/v1/orders", json=body, headers=given)

    def place(self, customer: str = "alice", **fields: Any) -> dict[str, Any]:
        """The document of an order that was accepted."""
        answer = self.post(a_body(**fields), customer=customer)
        assert answer.status_code == 201, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def get(self, path: str, *, customer: str = "alice", **options: Any) -> httpx.Response:
        scope = options.pop("scope", CUSTOMER)
        headers = self.auth(customer, scope) | options.pop("headers", {})
        return self.http.get(path, headers=headers, **options)

    def cancel(
        self, order_id: str, *, customer: str = "alice", scope: str = CUSTOMER, **headers: str
    ) -> httpx.Response:
        path = f"/v1/orders/{order_id}/cancel"
        return self.http.post(path, headers=self.auth(customer, scope) | headers)


def a_body(**changes: Any) -> dict[str, Any]:
    """What a client sends to order one tea; a change to None leaves the field out."""
    values: dict[str, Any] = {
        "currency": "EUR",
        "lines": [{"sku": "tea", "quantity": 1}],
        "payment_method": "pm_card_visa",
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


@contextmanager
def an_api(instance: Instance, databases: Databases, **changes: Any) -> Iterator[Api]:
    """The api on a database of its own, which knows tea at 500 and mugs at 1250 cents."""
    url = databases.url(databases.fresh("orderdb"), "order_service")
    own = settings(
        database_url=url,
        database_pool_size=4,
        jwt_jwks=str(jwks_path(instance.layout)),
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
        **changes,
    )
    engine = make_engine(url, application_name="tests", pool_size=8)
    catalogue_of(make_sessions(engine), tea=500, mug=1250)
    with served(create_app(own), own) as client:
        yield Api(client, instance, Store(make_sessions(engine)))
    engine.dispose()


@contextmanager
def database_away(instance: Instance, api: Api) -> Iterator[None]:
    """Cut every connection to the api's database, and let nobody in."""
    name = api.store.sessions.kw["bind"].url.database
    with closing(psycopg2.connect(instance.postgres_url("postgres", "postgres"))) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        try:
            yield
        finally:
            cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            api.store.sessions.kw["bind"].dispose()
