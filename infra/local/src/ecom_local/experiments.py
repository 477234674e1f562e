"""What becomes of orders without one of the safeguards: scripts/demo --without NAME.

On a platform of its own that is thrown away afterwards, because what happens here cannot be undone. Each
experiment does what a day in production does by itself sooner or later, and then the auditor looks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from confluent_kafka import Consumer
from rich.console import Console
from rich.markup import escape

from ecom_local import sql
from ecom_local.demo import CATALOG_LIMIT_S, CURRENCY, ORDER_LIMIT_S, TEA, Demo
from ecom_local.errors import LocalError
from ecom_local.instance import Instance
from ecom_local.parts import DATABASES, SERVICES
from ecom_local.ports import Ports
from ecom_local.shop import Json, Shop, new_key

_POLL_S = 0.1
_TOPIC_LIMIT_S = 10
_AUDIT = ("--grace", "2", "--settle", "1", "--lines", "5")
_FINAL = {"confirmed", "rejected", "cancelled"}


@dataclass
class Stage:
    """Where an experiment plays: the platform, a customer, and what is said to whoever watches."""

    instance: Instance
    shop: Shop
    console: Console
    unsaid: list[str] = field(default_factory=list)
    """What should be in a topic and is not: the auditor reads databases only."""

    def tell(self, text: str) -> None:
        self.console.print(f"  · {escape(text)}")

    def place(self, method: str = "pm_card_visa", *, key: str = "") -> Json:
        return self.shop.place(
            lines={TEA: 2}, payment_method=method, currency=CURRENCY, key=key or new_key()
        )

    def until_final(self, order_id: str) -> Json:
        self.wait(lambda: self.shop.order(order_id)["status"] in _FINAL)
        return self.shop.order(order_id)

    def wait(self, condition: Callable[[], object], *, limit_s: float = ORDER_LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise LocalError(f"The experiment waited {limit_s:.0f} s in vain.")
            time.sleep(_POLL_S)

    def rows(self, service: str, query: str) -> list[list[str]]:
        """As superuser, and quickly: it is asked while something is on its way."""
        return [line.split("\t") for line in self.execute(service, query).splitlines()]

    def execute(self, service: str, statement: str) -> str:
        database = DATABASES[service]
        return sql.run(self.instance, database, [statement], connect_to=database.name)


@dataclass(frozen=True)
class Experiment:
    """What is done, and with which settings."""

    play: Callable[[Stage], None]
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def run(name: str, console: Console, *, left_out: bool = True) -> int:
    """Play the experiment; 0 when it shows what the safeguard is for, 1 when nothing went wrong.

    With the safeguard in its place (not `left_out`) the same must do no harm.
    """
    experiment = EXPERIMENTS[name]
    with TemporaryDirectory(prefix="ecom-without-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o755)  # started by root, Postgres runs as a user of its own
        settings = _settings(name if left_out else "", experiment, home)
        how = "Without" if left_out else "With"
        console.print(f"[bold]{how} {name}[/], on a platform of its own")
        with Instance(home, ports=Ports.free(), environment=settings) as instance:
            with console.status("starting"):
                instance.start_all()
            return _play(experiment, instance, console)


def _settings(without: str, experiment: Experiment, home: Path) -> dict[str, dict[str, str]]:
    crashes = home / "crashes"
    crashes.mkdir()
    settings = {service: {"WITHOUT_SAFEGUARDS": without} for service in SERVICES}
    settings["order-api"] = {"CRASH_FOLDER": str(crashes)}
    for part, more in experiment.settings.items():
        settings[part] = settings.get(part, {}) | dict(more)
    return settings


def _play(experiment: Experiment, instance: Instance, console: Console) -> int:
    shop = Shop(instance, customer="demo-customer")
    try:
        stage = Stage(instance, shop, console)
        Demo(shop, console).seed()
        stage.wait(
            lambda: stage.rows("order", f"SELECT sku FROM catalogue_items WHERE sku = '{TEA}'"),
            limit_s=CATALOG_LIMIT_S,
        )
        console.print("\n[bold]What happens[/]")
        experiment.play(stage)
    finally:
        shop.close()
    violations = _audit(instance)
    console.print("\n[bold]What the auditor says[/]")
    for line in violations:
        console.print(f"  [red]{escape(line)}[/]")
    if not violations:
        console.print("  [green]clean[/]")
    for line in stage.unsaid:
        console.print(f"\n[bold]What no database shows[/]\n  [red]{escape(line)}[/]")
    return 0 if violations or stage.unsaid else 1


def _audit(instance: Instance) -> list[str]:
    """The auditor's lines about violations."""
    names = {f"AUDIT_{name.upper()}_DATABASE_URL": database for name, database in DATABASES.items()}
    result = subprocess.run(
        [sys.executable, "-m", "ecom_audit", *_AUDIT],
        env={
            variable: instance.postgres_url(database.name, database.service_role)
            for variable, database in names.items()
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode not in (0, 1):
        raise LocalError(f"The auditor could not look:\n{result.stderr}")
    return [line for line in result.stdout.splitlines() if line.startswith("✗")]


# ---- the experiments


def _outbox(stage: Stage) -> None:
    crash = Path(stage.instance.layout.home) / "crashes" / "batch.after_commit"
    crash.touch()
    key = new_key()
    stage.tell("a customer orders tea; the api dies after its commit, before it has told anybody")
    with suppress(httpx.HTTPError):
        stage.place(key=key)
    order: dict[str, Json] = {}

    def retried() -> bool:
        with suppress(httpx.HTTPError):
            order["it"] = stage.place(key=key)
        return bool(order)

    stage.wait(retried)
    order_id = order["it"]["id"]
    stage.tell(f"sent again with its key it is order {order_id}; the sweeper asks for its stock")
    stage.tell(f"it ends as {stage.until_final(order_id)['status']}")
    told = _announced(stage.instance, order_id)
    stage.tell(f"orders.events has of it: {', '.join(told) or 'nothing'}")
    if "order.placed.v1" not in told:
        stage.unsaid.append(
            f"✗ announced  {order_id}  placed  |  orders.events has no order.placed"
        )


def _announced(instance: Instance, order_id: str) -> list[str]:
    """The types of what `orders.events` has of an order that is final."""
    consumer = Consumer(
        {
            "bootstrap.servers": instance.kafka_bootstrap,
            "group.id": new_key(),
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe(["orders.events"])
    types: list[str] = []
    deadline = time.monotonic() + _TOPIC_LIMIT_S
    while "order.confirmed.v1" not in types and time.monotonic() < deadline:
        message = consumer.poll(_POLL_S)
        if message is not None and message.error() is None and message.value():
            event = json.loads(message.value() or b"{}")
            if event["subject"] == order_id:
                types.append(event["type"])
    consumer.close()
    return types


def _versions(stage: Stage) -> None:
    order = stage.until_final(stage.place()["id"])
    order_id = order["id"]
    known = len(stage.shop.timeline(order_id))
    stage.tell(f"order {order_id} is {order['status']}")
    stage.tell("now an old answer arrives, that its stock is held: a broker may keep one for long")
    answer = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "inventory_service",
        "type": "reservation.changed.v1",
        "subject": order_id,
        "time": datetime.now(UTC).isoformat(),
        "sequence": 1,
        "data": {
            "order_id": order_id,
            "state": "held",
            "version": 1,
            "lines": [{"sku": TEA, "quantity": 2}],
        },
    }
    stage.execute(
        "inventory",
        "INSERT INTO outbox (topic, key, payload) VALUES "
        f"('inventory.events', '{order_id}', convert_to('{json.dumps(answer)}', 'UTF8'))",
    )
    with suppress(LocalError):  # with the safeguard there is nothing to wait for
        stage.wait(lambda: len(stage.shop.timeline(order_id)) > known, limit_s=10)
    news = [entry["summary"] for entry in stage.shop.timeline(order_id)[known:]]
    stage.tell(f"its timeline goes on: {' '.join(news) or 'it does not'}")


def _tombstones(stage: Stage) -> None:
    stage.instance.stop("order-worker")
    order_id = stage.place()["id"]
    stage.shop.cancel(order_id)
    stage.tell(f"order {order_id} is placed and cancelled at once")
    stage.tell("of its two commands to inventory the broker delivers only the second one")
    [[late]] = stage.rows(
        "order",
        "DELETE FROM outbox WHERE topic = 'inventory.commands' AND convert_from(payload, 'UTF8') "
        "LIKE '%stock.reserve.v1%' RETURNING encode(payload, 'hex')",
    )
    stage.instance.start("order-worker")
    stage.tell(f"the order ends as {stage.until_final(order_id)['status']}")
    stage.tell("then it delivers the first one, too")
    stage.execute(
        "order",
        "INSERT INTO outbox (topic, key, payload) VALUES "
        f"('inventory.commands', '{order_id}', decode('{late}', 'hex'))",
    )
    state = f"SELECT state FROM reservations WHERE order_id = '{order_id}'"
    with suppress(LocalError):  # with the safeguard there is nothing to wait for
        stage.wait(lambda: stage.rows("inventory", state) == [["held"]], limit_s=10)
    [[found]] = stage.rows("inventory", state) or [["none"]]
    stage.tell(f"its reservation is {found}")


def _idempotency(stage: Stage) -> None:
    # What stands behind the code's own look at the keys.
    stage.execute("order", "ALTER TABLE idempotency_keys DROP CONSTRAINT pk_idempotency_keys")
    key = new_key()
    stage.tell("a customer's answer is lost on a train, and the phone sends the order again")
    orders = {stage.place(key=key)["id"] for _ in range(2)}
    for order_id in sorted(orders):
        stage.tell(f"order {order_id}: {stage.until_final(order_id)['status']}")


def _provider_key(stage: Stage) -> None:
    order_id = stage.place("pm_sim_timeoutThenSuccess")["id"]
    stage.tell(f"order {order_id}: the provider takes the money, but its answer is lost")
    taken = f"SELECT key, captured FROM book WHERE key LIKE '{order_id}%' AND captured > 0"
    with suppress(LocalError):  # with the safeguard there is nothing to wait for
        stage.wait(lambda: len(stage.rows("provider", taken)) > 1, limit_s=30)
    for key, amount in stage.rows("provider", taken):
        stage.tell(f"the provider's book: {key} captured {amount}")


def _deadline(stage: Stage) -> None:
    order_id = stage.place("pm_sim_error")["id"]
    stage.tell(f"order {order_id}: the provider fails, and is asked again in a minute")
    stage.tell("the order was promised an end within 3 seconds")
    time.sleep(7)
    order = stage.shop.order(order_id)
    stage.tell(f"after 7 s it is {order['status']}, payment {order['payment']}")


EXPERIMENTS = {
    "outbox": Experiment(_outbox),
    "versions": Experiment(_versions),
    "tombstones": Experiment(_tombstones),
    "idempotency": Experiment(_idempotency),
    "provider-key": Experiment(
        _provider_key,
        {"payment": {"PROVIDER_RETRY_FIRST_S": "0.2", "PROVIDER_RETRY_MOST_S": "60"}},
    ),
    "deadline": Experiment(
        _deadline,
        {
            "order": {"ORDER_DEADLINE_S": "3"},
            "payment": {"PROVIDER_RETRY_FIRST_S": "60"},
        },
    ),
}
"""Every safeguard of which an experiment shows what it is for."""
