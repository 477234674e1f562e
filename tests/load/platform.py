"""The platform that is measured: a native one of its own, with production's settings and keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import httpx
import psutil
from ecom_local.instance import Instance
from ecom_local.parts import DATABASES, PARTS, SERVICES
from ecom_local.ports import Ports

from tests.support.audited import write_orders
from tests.support.extra_processes import ExtraProcess
from tests.support.shop import CUSTOMER_SCOPES, Shop, until
from tests.support.superuser import Superuser
from tests.support.tokens import AUDIENCE, ISSUER, Issuer, an_issuer

CUSTOMERS: Final = 50
SKUS: Final = 1_000
PLENTY: Final = 1_000_000
PRICE: Final = 500
TOKENS_HOLD_S: Final = 24 * 3600
READY_WITHIN_S: Final = 60.0
SUPERVISOR: Final = "supervisor"
STATEMENTS: Final = {"shared_preload_libraries": "pg_stat_statements"}
"""Counts statements and their WAL; the one thing that a production server need not have."""


class BenchPlatform(Superuser):
    """Inside of `with` it runs, with so many processes of each kind. Fulfils `Shopfront`."""

    def __init__(
        self,
        home: Path,
        *,
        apis: int = 1,
        workers: int = 1,
        settings: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        keys = home / "keys-of-production"
        keys.mkdir(exist_ok=True)
        keys.chmod(0o755)
        self._issuer: Issuer = an_issuer(keys, "production")
        self._apis, self._workers = apis, workers
        self._extras: dict[str, ExtraProcess] = {}
        given = settings or {}
        everywhere = {
            "ENVIRONMENT": "production",
            "JWT_JWKS": str(self._issuer.jwks),
            "JWT_ISSUER": ISSUER,
            "JWT_AUDIENCE": AUDIENCE,
            **given.get("all", {}),
        }
        own = {service: everywhere | dict(given.get(service, {})) for service in SERVICES}
        servers = {name: dict(given[name]) for name in ("kafka",) if name in given}
        self.instance = Instance(
            home,
            ports=Ports.free(),
            environment={
                **own,
                **servers,
                "postgres": STATEMENTS | dict(given.get("postgres", {})),
            },
        )

    def __enter__(self) -> Self:
        try:
            self.instance.start_all()
            for service in SERVICES:
                self._start_extras(service, "app", self._apis)
                self._start_extras(service, "worker", self._workers)
            for name in self._extras:
                self._until_ready(name)
            for database in DATABASES.values():
                self.sql(database.name, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for extra in self._extras.values():
            extra.end("TERM")
        self.instance.stop()

    def stop_services(self) -> None:
        """Postgres and Kafka go on."""
        for extra in self._extras.values():
            extra.end("TERM")
        self._extras = {}
        self.instance.stop_services()

    def url(self, service: str) -> str:
        return self.instance.url(service)

    @property
    def order_urls(self) -> list[str]:
        """Of every api process of the order service."""
        extra = [e.url for name, e in self._extras.items() if name.startswith("order-app")]
        return [self.url("order"), *extra]

    def token(self, *, sub: str, scope: str, lifetime_s: int = TOKENS_HOLD_S) -> str:
        """RS256, as most issuers sign: checking it costs a third of what EdDSA's check does."""
        return self._issuer.rsa_token(sub=sub, scope=scope, lifetime_s=lifetime_s)

    def customers(self) -> list[str]:
        """Their tokens."""
        return [
            self.token(sub=f"customer-{number}", scope=CUSTOMER_SCOPES)
            for number in range(CUSTOMERS)
        ]

    def mains(self) -> dict[str, psutil.Process]:
        """The main process of each part and of each extra process, by name; Postgres has children."""
        own = {name: self.instance.pid(name) for name in PARTS}
        extra: dict[str, int | None] = {name: e.pid for name, e in self._extras.items()}
        pids = {**own, **extra, SUPERVISOR: self.instance.supervisor.pid()}
        return {name: psutil.Process(pid) for name, pid in pids.items() if pid is not None}

    def postgres_url(self, database: str, role: str) -> str:
        return self.instance.postgres_url(database, role)

    def _start_extras(self, service: str, kind: Literal["app", "worker"], count: int) -> None:
        for number in range(2, count + 1):
            name = f"{service}-{kind}-{number}"
            self._extras[name] = ExtraProcess.start(self.instance, service, kind, name=name)

    def _until_ready(self, name: str) -> None:
        def ready() -> bool:
            try:
                answer = httpx.get(f"{self._extras[name].url}/health/ready", timeout=5)
            except httpx.TransportError:
                return False
            return answer.status_code == 200

        until(ready, timeout_s=READY_WITHIN_S, about=lambda: f"{name} is not ready", every_s=0.1)


def preload(platform: BenchPlatform, orders: int, say: Callable[[str], None]) -> None:
    """Write so many orders that came to an end long ago; nine in ten of them, to be exact."""
    names = {service: database.name for service, database in DATABASES.items()}
    write_orders(platform.instance, names, orders, skus=max(50, orders // 100), in_flight=False)
    for service in SERVICES:
        platform.sql(
            names[service],
            "INSERT INTO inbox (message_id) SELECT gen_random_uuid() FROM generate_series(1, %s); ANALYZE inbox",
            orders,
        )
    say(f"{orders * 9 // 10:,} orders are there already")


def expire(platform: BenchPlatform, rows: int, say: Callable[[str], None]) -> None:
    """Give each service so many message ids and so many idempotency keys that are beyond their retention."""
    for service in SERVICES:
        platform.sql(
            DATABASES[service].name,
            "INSERT INTO inbox (message_id, received_at) SELECT gen_random_uuid(), now() - interval '30 days' "
            "FROM generate_series(1, %s); ANALYZE inbox",
            rows,
        )
        platform.sql(
            DATABASES[service].name,
            "INSERT INTO idempotency_keys (subject, operation, key, fingerprint, resource_id, created, created_at) "
            "SELECT 'old', 'old', n::text, decode(repeat('00', 32), 'hex'), n::text, true, now() - interval '30 days' "
            "FROM generate_series(1, %s) AS n; ANALYZE idempotency_keys",
            rows,
        )
    say(f"{rows:,} message ids and {rows:,} keys in each service are to be forgotten")


def expired_rows(platform: BenchPlatform) -> int:
    """Of those, how many are still there."""
    counts = [
        platform.sql(
            DATABASES[service].name,
            "SELECT (SELECT count(*) FROM idempotency_keys WHERE subject = 'old') "
            "+ (SELECT count(*) FROM inbox WHERE received_at < now() - interval '29 days')",
        )
        for service in SERVICES
    ]
    return sum(int(count) for [(count,)] in counts)


def stock(shop: Shop, skus: Sequence[str], quantity: int, say: Callable[[str], None]) -> None:
    """Put the items on sale with so many units each; they can be ordered when this returns."""
    shop.auth("staff")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda sku: _put_on_sale(shop, sku, quantity), skus))
    shop.wait_until_orderable(skus[-1])
    for sku in skus:
        shop.wait_until_orderable(sku)
    say(f"{len(skus)} items with {quantity:,} units each")


def _put_on_sale(shop: Shop, sku: str, quantity: int) -> None:
    answer = shop.http.put(
        shop.url("inventory", f"/v1/items/{sku}"),
        json={"name": f"Item {sku}", "unit_price": PRICE, "currency": "EUR"},
        headers=shop.staff,
    )
    assert answer.status_code in (200, 201), answer.text
    shop.receive(sku, quantity)
