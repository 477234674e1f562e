"""CPU of the order service's own code, and of a transaction that does nothing, without broker, load and other processes
beside it: what a step saves.

python -m tests.load.micro          orders in batches of 43, which 8 clients come to
python -m tests.load.micro 1        one by one
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import UUID

import orjson
import psutil
from ecom_common import inbox, prepared
from ecom_common.database import Sessions, make_engine, make_sessions
from ecom_common.idempotency import fingerprint
from ecom_common.ids import new_id
from ecom_common.messages import Received
from ecom_contracts.envelope import decode, encode
from ecom_contracts.messages import (
    Message,
    PaymentChanged,
    PaymentState,
    ReservationChanged,
    ReservationState,
)
from order_service import models, repository
from order_service.api import Desk
from order_service.app import create_app
from order_service.commands import Placed, PlaceOrder
from order_service.service import OrderDesk
from order_service.settings import Settings
from pydantic import SecretStr
from sqlalchemy import Engine

from tests.load.platform import BenchPlatform
from tests.support.envelopes import an_envelope
from tests.support.homes import a_home
from tests.support.tokens import AUDIENCE, ISSUER, an_issuer

BATCH: Final = 43
ORDERS: Final = 2_000
POSTS: Final = 2_000
TRACE: Final = f"00-{'a' * 32}-{'b' * 16}-01"


def main(arguments: Sequence[str]) -> int:
    batch = int(arguments[0]) if arguments else BATCH
    with a_home() as home:
        platform = BenchPlatform(home)
        platform.instance.start("postgres")
        try:
            platform.instance.migrate()
            _measure_batches(platform, batch)
        finally:
            platform.instance.stop()
    print(f"POST, without batcher and server: {asyncio.run(_post_us()):.0f} µs of CPU")
    return 0


def _measure_batches(platform: BenchPlatform, batch: int) -> None:
    settings = _settings(platform.postgres_url("orderdb", "order_service"), "unused")
    engine = make_engine(
        settings.database_url.get_secret_value(), application_name="micro", pool_size=1
    )
    sessions, desk = make_sessions(engine), OrderDesk(settings)
    _stock_catalogue(sessions)
    server = psutil.Process(platform.instance.pid("postgres") or 0)
    _measure_transactions(engine, sessions, server)
    batches = [[_wish(number) for number in range(batch)] for _ in range(max(5, ORDERS // batch))]

    def place(wishes: Sequence[PlaceOrder]) -> None:
        with sessions.begin() as session:
            desk.handle_commands(session, wishes)

    def learn(payloads: Sequence[bytes]) -> None:
        messages = [Received(decode(p), "topic", 0, n) for n, p in enumerate(payloads)]
        with sessions.begin() as session:
            inbox.claim(session, [message.envelope.id for message in messages])
            desk.learn(session, messages)

    _report("placing an order", place, batches, server)
    for name, say in _STORY.items():
        told = [[_payload(say(wish.order_id)) for wish in wishes] for wishes in batches]
        _report(f"learning: {name}", learn, told, server)
    engine.dispose()


def _measure_transactions(engine: Engine, sessions: Sessions, server: psutil.Process) -> None:
    """What three statements cost that do nothing: with a session, and on a connection without one."""

    def with_session(_: object) -> None:
        with sessions.begin() as session:
            for _number in range(3):
                prepared.run(session, "SELECT 1")

    def on_connection(_: object) -> None:
        with engine.begin() as connection:
            for _number in range(3):
                prepared.run_on(connection, "SELECT 1", ())

    for what, step in (("a session", with_session), ("a connection", on_connection)):
        _report(f"three empty statements with {what}", step, [[()]] * ORDERS, server)


def _report(
    what: str,
    step: Callable[[Any], None],
    batches: Sequence[Sequence[object]],
    server: psutil.Process,
) -> None:
    step(batches[0])  # the first compiles what the others find compiled
    begin, begin_server = time.process_time(), _cpu_s(server)
    for batch in batches[1:]:
        step(batch)
    items = sum(map(len, batches[1:]))
    own, servers = time.process_time() - begin, _cpu_s(server) - begin_server
    print(
        f"{what}: {own / items * 1e6:.0f} µs of CPU, and the server's {servers / items * 1e6:.0f}"
    )


def _cpu_s(server: psutil.Process) -> float:
    times = [process.cpu_times() for process in (server, *server.children())]
    return float(sum(t.user + t.system for t in times))


def _settings(url: str, jwks: str) -> Settings:
    return Settings(
        database_url=SecretStr(url),
        jwt_jwks=jwks,
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
        http_port=1,
    )


def _stock_catalogue(sessions: Sessions) -> None:
    item = {"name": "Item", "unit_price": 500, "currency": "EUR", "active": True, "version": 1}
    with sessions.begin() as session:
        repository.save_catalogue(session, [{"sku": f"SKU-{n}", **item} for n in range(1_000)])


def _wish(number: int) -> PlaceOrder:
    order_id = new_id()
    return PlaceOrder(
        order_id=order_id,
        customer_id="customer",
        idempotency_key=str(order_id),
        fingerprint=fingerprint({"number": number}),
        currency="EUR",
        quantities={f"SKU-{number}": 1, f"SKU-{number + 1}": 2},
        payment_method="pm_card_visa",
        checkout_id=None,
        expected_total=None,
        traceparent=TRACE,
    )


def _stock(order_id: UUID, state: ReservationState, version: int) -> Message:
    return ReservationChanged(order_id=order_id, state=state, version=version, shortages=())


def _payment(order_id: UUID, state: PaymentState, version: int, captured: int) -> Message:
    return PaymentChanged(
        order_id=order_id,
        payment_id=order_id,
        state=state,
        version=version,
        currency="EUR",
        amount=1500,
        captured=captured,
        refunded=0,
        decline_code=None,
    )


_STORY: Final[dict[str, Callable[[UUID], Message]]] = {
    "stock held": lambda i: _stock(i, ReservationState.HELD, 1),
    "payment processing": lambda i: _payment(i, PaymentState.PROCESSING, 1, 0),
    "payment captured": lambda i: _payment(i, PaymentState.CAPTURED, 2, 1500),
    "stock committed": lambda i: _stock(i, ReservationState.COMMITTED, 2),
}


def _payload(data: Message) -> bytes:
    cause = {"correlation_id": data.key, "causation_id": data.key, "traceparent": TRACE}
    return encode(an_envelope(data, **cause))


class _Batcher:
    """Answers at once."""

    async def submit(self, command: PlaceOrder) -> Placed:
        lines = [
            models.OrderLine(command.order_id, position, sku, "Item", count, 500, 500 * count)
            for position, (sku, count) in enumerate(command.quantities.items(), start=1)
        ]
        now = datetime.now(UTC)
        change = models.place(
            order_id=command.order_id,
            customer_id=command.customer_id,
            checkout_id=None,
            currency="EUR",
            payment_method="pm_card_visa",
            lines=lines,
            now=now,
            deadline_at=now,
            traceparent=None,
        )
        return Placed(change.order)


class _Flow:
    async def admit(self) -> None:
        """Always."""


async def _post_us() -> float:
    """Microseconds of CPU for a POST of an order, from the ASGI call on."""
    with TemporaryDirectory() as folder:
        issuer = an_issuer(Path(folder))
        app = create_app(
            _settings("postgresql://role:none-needed@127.0.0.1/none", str(issuer.jwks))
        )
    desk: Any = Desk(_Batcher(), None, None, None, _Flow(), None)  # type: ignore[arg-type]
    app.state.desk = desk
    token = issuer.rsa_token(sub="customer", scope="orders:write", lifetime_s=600)
    for _ in range(POSTS // 10):
        await _post(app, token)
    begin = time.process_time()
    for _ in range(POSTS):
        await _post(app, token)
    return (time.process_time() - begin) / POSTS * 1e6


_BODY: Final = orjson.dumps(
    {
        "currency": "EUR",
        "lines": [{"sku": "SKU-1", "quantity": 1}, {"sku": "SKU-2", "quantity": 2}],
        "payment_method": "pm_card_visa",
    }
)


async def _post(app: Any, token: str) -> None:
    asked = [{"type": "http.request", "body": _BODY, "more_body": False}]
    answered: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return asked.pop() if asked else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        answered.append(message)

    headers = {
        "authorization": f"Bearer {token}",
        "idempotency-key": str(new_id()),
        "content-type": "application/json",
        "content-length": str(len(_BODY)),
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/orders",
        "raw_path": b"/v1/orders",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    assert answered[0]["status"] == 201, answered


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
