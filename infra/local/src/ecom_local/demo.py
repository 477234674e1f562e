"""The demo: a small catalogue, an order of every kind, and what becomes of each, checked.

It uses the public HTTP APIs only. Running it again tops up the stock and places new orders.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rich.console import Console
from rich.markup import escape

from ecom_local.errors import LocalError
from ecom_local.parts import SERVICES
from ecom_local.platform import Shopfront
from ecom_local.shop import Json, Refused, Shop, new_key

CURRENCY = "EUR"
FULL_SHELF = 100
CATALOG_LIMIT_S = 20
ORDER_LIMIT_S = 60

_POLL_S = 0.05
_FINAL = {"confirmed", "rejected", "cancelled"}


@dataclass(frozen=True)
class Item:
    name: str
    description: str
    unit_price: int
    stocked: bool = True

    def body(self) -> Json:
        return {
            "name": self.name,
            "description": self.description,
            "unit_price": self.unit_price,
            "currency": CURRENCY,
            "active": True,
        }


TEA, MUG, POT, PRINT = "DEMO-TEA", "DEMO-MUG", "DEMO-POT", "DEMO-PRINT"
CATALOG = {
    TEA: Item("Green tea", "100 g of Sencha", 890),
    MUG: Item("Mug", "Blue, 300 ml", 1250),
    POT: Item("Teapot", "Cast iron, 0.8 l", 5900),
    PRINT: Item("Limited print", "Sold out for good", 4500, stocked=False),
}


@dataclass(frozen=True)
class Outcome:
    status: str
    reason: str | None
    stock: str
    payment: str

    @classmethod
    def of(cls, order: Json) -> Outcome:
        return cls(order["status"], order.get("reason"), order["stock"], order["payment"])

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.status}{reason}, stock {self.stock}, payment {self.payment}"


BOUGHT = Outcome("confirmed", None, "committed", "captured")


@dataclass(frozen=True)
class Story:
    """One order and how it must end."""

    title: str
    lines: Mapping[str, int]
    payment_method: str
    ends: Outcome
    cancelled_by_customer: bool = False

    @property
    def sold(self) -> Mapping[str, int]:
        """What leaves the shelf for good."""
        return self.lines if self.ends.status == "confirmed" else {}


STORIES = [
    Story("Bought", {TEA: 2, MUG: 1}, "pm_card_visa", BOUGHT),
    Story(
        "Out of stock",
        {MUG: 1, PRINT: 1},
        "pm_card_visa",
        Outcome("rejected", "out_of_stock", "refused", "none"),
    ),
    Story(
        "Card declined",
        {POT: 1},
        "pm_card_chargeDeclined",
        Outcome("rejected", "payment_declined", "released", "declined"),
    ),
    Story(
        "Cancelled after it was confirmed",
        {TEA: 1, POT: 1},
        "pm_card_visa",
        Outcome("cancelled", "cancelled_by_customer", "restocked", "refunded"),
        cancelled_by_customer=True,
    ),
    Story("The payment provider answers too late", {MUG: 3}, "pm_sim_timeoutThenSuccess", BOUGHT),
]


def run(platform: Shopfront, console: Console) -> int:
    """Play all stories; the exit code says whether each ended as it must."""
    demo = Demo(Shop(platform, customer="demo-customer"), console)
    failures: list[str] = []
    try:
        demo.seed()
        for number, story in enumerate(STORIES, 1):
            failures += demo.play(number, story)
    finally:
        demo.shop.close()
    _close(platform, console, failures)
    return 1 if failures else 0


@dataclass
class Demo:
    shop: Shop
    console: Console
    known: bool = field(default=False)

    def seed(self) -> None:
        """The catalogue, and full shelves: also the second time."""
        self.console.print("\n[bold]Catalogue[/]")
        for sku, item in CATALOG.items():
            self.shop.put_item(sku, item.body())
            available = int(self.shop.stock(sku)["available"])
            if item.stocked and available < FULL_SHELF:
                self.shop.receive(sku, FULL_SHELF - available)
                available = FULL_SHELF
            self.console.print(
                f"  {sku:<11} {item.name:<14} {_money(item.unit_price):>10}  {available:>4} available"
            )

    def play(self, number: int, story: Story) -> list[str]:
        """Place one order, show its timeline, and return what is not as it must be."""
        goods = ", ".join(
            f"{quantity} × {CATALOG[sku].name}" for sku, quantity in story.lines.items()
        )
        self.console.print(
            f"\n[bold]{number}  {story.title}[/]  [dim]{goods} · {story.payment_method}[/]"
        )
        before = self._on_shelf(story)
        order = self._place(story)
        follower = Follower(self.shop, self.console, order["id"])
        self.console.print(f"   order {order['id']}, {_money(order['total'])}")
        order = follower.until_final()
        if story.cancelled_by_customer and order["status"] == "confirmed":
            self.shop.cancel(order["id"])
            order = follower.until_final(lambda current: current["status"] != "confirmed")
        failures = self._check(story, order, before)
        mark = "[red]✗[/]" if failures else "[green]✓[/]"
        self.console.print(f"   {mark} {Outcome.of(order)}")
        for failure in failures:
            self.console.print(f"     [red]{escape(failure)}[/]")
        return failures

    def _on_shelf(self, story: Story) -> dict[str, tuple[int, int]]:
        levels = {sku: self.shop.stock(sku) for sku in story.lines}
        return {
            sku: (int(level["on_hand"]), int(level["reserved"])) for sku, level in levels.items()
        }

    def _place(self, story: Story) -> Json:
        """The first orders may come before the order service has heard of the new items."""
        deadline = time.monotonic() + CATALOG_LIMIT_S
        key = new_key()
        while True:
            try:
                return self.shop.place(
                    lines=dict(story.lines),
                    payment_method=story.payment_method,
                    currency=CURRENCY,
                    key=key,
                )
            except Refused as refusal:
                if refusal.code != "unknown_sku" or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    def _check(self, story: Story, order: Json, before: dict[str, tuple[int, int]]) -> list[str]:
        failures = []
        if (found := Outcome.of(order)) != story.ends:
            failures.append(f"{story.title}: ended as {found}; must be {story.ends}")
        after = self._on_shelf(story)
        for sku, (on_hand, reserved) in before.items():
            wanted = (on_hand - story.sold.get(sku, 0), reserved)
            if after[sku] != wanted:
                failures.append(
                    f"{story.title}: {sku} has (on hand, reserved) {after[sku]}; must be {wanted}"
                )
        return failures


class Follower:
    """Shows an order's timeline as it grows."""

    def __init__(self, shop: Shop, console: Console, order_id: str) -> None:
        self._shop, self._console, self._order_id = shop, console, order_id
        self._shown = 0
        self._began: datetime | None = None

    def until_final(self, also: Callable[[Json], bool] = lambda _: True) -> Json:
        deadline = time.monotonic() + ORDER_LIMIT_S
        while True:
            order = self._shop.order(self._order_id)
            self._show_news()
            if order["status"] in _FINAL and also(order):
                return order
            if time.monotonic() > deadline:
                raise LocalError(
                    f"Order {self._order_id} is still {Outcome.of(order)} after {ORDER_LIMIT_S} s.\n"
                    "Look at scripts/status and scripts/logs order-worker."
                )
            time.sleep(_POLL_S)

    def _show_news(self) -> None:
        for entry in self._shop.timeline(self._order_id)[self._shown :]:
            self._shown += 1
            at = datetime.fromisoformat(entry["at"])
            self._began = self._began or at
            offset_s = (at - self._began).total_seconds()
            self._console.print(
                f"   [dim]{offset_s:+8.3f} s[/]  {escape(entry['summary'])}{_cause(entry.get('cause'))}"
            )


def _cause(cause: Json | None) -> str:
    """Where the change came from, if a message led to it."""
    topic = str((cause or {}).get("topic") or "")
    return f"  [dim]← {escape(topic)}[/]" if topic else ""


def _money(minor: int) -> str:
    return f"{minor // 100}.{minor % 100:02} {CURRENCY}"


def _close(platform: Shopfront, console: Console, failures: list[str]) -> None:
    if failures:
        console.print(
            f"\n[red bold]{len(failures)} things are not as they must be.[/] See scripts/logs."
        )
    else:
        console.print(f"\n[green bold]All {len(STORIES)} orders ended as they must.[/]")
    console.print("\nThe platform keeps running. Its APIs, with documentation to try them from:")
    for service in SERVICES:
        console.print(f"  {service:<10} {platform.url(service)}/docs")
    console.print(
        '  a token    scripts/token --sub alice --scope "orders:read orders:write"\n'
        "  look       scripts/status, scripts/logs -f\n"
        "  stop       scripts/down (--wipe deletes the data too)"
    )
