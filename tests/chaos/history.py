"""What customers asked and were told, and whether all of it is true in the end.

The comparison is pure: `Books` says what the platform shows after the drain, `lies` names everything that
somebody was told and that is not so. A 5xx or a lost answer promises nothing; a 2xx is a promise.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Operation = Literal["place", "cancel", "look"]
Order = Mapping[str, Any]

FINAL: Final = frozenset({"confirmed", "rejected", "cancelled"})

# What a customer of the load may be refused with, though nothing is wrong with the platform.
REFUSALS: Final[Mapping[Operation, Mapping[int, frozenset[str]]]] = {
    "place": {409: frozenset({"request_in_progress", "checkout_reused"})},
    "cancel": {409: frozenset({"request_in_progress", "not_cancellable"})},
    "look": {},
}
# Nothing is wrong with these either, and they say nothing about what was done.
_TRY_AGAIN: Final = frozenset({"unavailable", "overloaded", "request_in_progress"})


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and what became of it."""

    operation: Operation
    customer: str
    asked_at: float
    """Monotonic seconds."""
    answered_at: float
    status: int
    """0: there was no answer."""
    document: Mapping[str, Any]
    """The body; of a request without an answer {"code": name of the error}."""
    key: str = ""
    checkout: str = ""
    order_id: str = ""
    """Of the order that was cancelled or looked at."""
    lines: Mapping[str, int] = field(default_factory=dict)
    method: str = ""

    @property
    def is_promise(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_open(self) -> bool:
        """The client does not know what was done and has to ask again."""
        return not self.is_promise and (
            self.status == 0 or self.status >= 500 or self.document.get("code") in _TRY_AGAIN
        )

    @property
    def outcome(self) -> str:
        """For counting: the status, or the error."""
        return str(self.status) if self.status else str(self.document.get("code"))


class History:
    """Everything that was asked, in the order of the answers. Threads share it."""

    def __init__(self) -> None:
        self._answers: list[Answer] = []
        self._lock = threading.Lock()

    def add(self, answer: Answer) -> None:
        with self._lock:
            self._answers.append(answer)

    def __iter__(self) -> Iterator[Answer]:
        with self._lock:
            return iter(list(self._answers))

    def __len__(self) -> int:
        return len(self._answers)

    def outcomes(self, *, since: float = 0.0) -> Counter[str]:
        """How requests that were made since then came out."""
        return Counter(answer.outcome for answer in self if answer.asked_at >= since)

    @property
    def order_ids(self) -> set[str]:
        """Of all acknowledged orders."""
        return {a.document["id"] for a in self if a.operation == "place" and a.is_promise}


@dataclass(frozen=True, slots=True)
class Books:
    """What the platform shows after the drain, as far as it concerns one history."""

    listed: Mapping[str, Sequence[Order]]
    """Every order that each customer has, from the public API."""
    taken: Mapping[str, int]
    """What was captured less what was refunded, by order id; absent: nothing."""
    stock: Mapping[str, Mapping[str, int]]
    """on_hand and reserved, by SKU."""
    received: Mapping[str, int]
    """How much of each SKU was delivered."""

    @property
    def orders(self) -> dict[str, Order]:
        return {order["id"]: order for orders in self.listed.values() for order in orders}


def lies(history: Iterable[Answer], books: Books) -> list[str]:
    """Everything that somebody was told and that is not so; empty when every answer is true."""
    answers = sorted(history, key=lambda answer: answer.answered_at)
    return [
        *_one_order_for_a_request(answers),
        *_acknowledged_orders_exist(answers, books),
        *_nobody_has_what_they_did_not_order(answers, books),
        *_final_is_final(answers, books),
        *_cancelled_as_promised(answers, books),
        *_refusals_are_declared(answers),
        *_money(books),
        *_stock(books),
    ]


def _placed(answers: Iterable[Answer]) -> list[Answer]:
    return [a for a in answers if a.operation == "place" and a.is_promise]


def _one_order_for_a_request(answers: Sequence[Answer]) -> Iterator[str]:
    """One id for a key and for a checkout; and different ones for different wishes."""
    ids: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    wishes: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for a in _placed(answers):
        order_id = a.document["id"]
        ids["key", a.customer, a.key].add(order_id)
        if a.checkout:
            ids["checkout", a.customer, a.checkout].add(order_id)
        wishes[order_id].add((a.customer, a.checkout or a.key))
    for (kind, customer, value), found in ids.items():
        if len(found) > 1:
            yield f"{kind} {value} of {customer} was answered with {len(found)} orders: {sorted(found)}"
    for order_id, found_wishes in wishes.items():
        if len(found_wishes) > 1:
            yield f"order {order_id} was the answer to different requests: {sorted(found_wishes)}"


def _acknowledged_orders_exist(answers: Sequence[Answer], books: Books) -> Iterator[str]:
    orders = books.orders
    for a in _placed(answers):
        order = orders.get(a.document["id"])
        if order is None:
            yield f"order {a.document['id']} was acknowledged to {a.customer} and does not exist"
        elif order["customer_id"] != a.customer:
            yield f"order {order['id']} of {a.customer} belongs to {order['customer_id']}"
        elif {line["sku"]: line["quantity"] for line in order["lines"]} != dict(a.lines):
            yield f"order {order['id']} is not what was ordered: {order['lines']} | {dict(a.lines)}"
        elif order["total"] != a.document["total"]:
            yield f"order {order['id']} costs {order['total']}; acknowledged were {a.document['total']}"


def _nobody_has_what_they_did_not_order(answers: Sequence[Answer], books: Books) -> Iterator[str]:
    """Also orders of requests without an answer are of requests; each makes one order at most."""
    acknowledged = {a.document["id"] for a in _placed(answers)}
    answered = {(a.customer, a.key) for a in _placed(answers)}
    unanswered: Counter[str] = Counter()
    for customer, _ in {
        (a.customer, a.key) for a in answers if a.operation == "place" and a.is_open
    } - answered:
        unanswered[customer] += 1
    for customer, orders in books.listed.items():
        if len({order["id"] for order in orders}) != len(orders):
            yield f"{customer} has an order twice"
        strange = sorted(order["id"] for order in orders if order["id"] not in acknowledged)
        if len(strange) > unanswered[customer]:
            yield f"{customer} has orders that nobody was told of: {strange}"


def _final_is_final(answers: Sequence[Answer], books: Books) -> Iterator[str]:
    """What was said to be final stays so, unless it was confirmed and then cancelled; nothing is open."""
    orders = books.orders
    wanted = (a for a in answers if a.operation == "cancel" and (a.is_promise or a.is_open))
    cancelled = {a.order_id for a in wanted}
    for order in orders.values():
        if order["status"] not in FINAL:
            yield f"order {order['id']} is still {order['status']} ({order['stock']}, {order['payment']})"
    for a in answers:
        told = a.document.get("status")
        known = orders.get(str(a.document.get("id"))) if a.is_promise and told in FINAL else None
        if known is None or known["status"] == told:
            continue
        was_cancelled = known["status"] == "cancelled" and known["id"] in cancelled
        if not (told == "confirmed" and was_cancelled):
            yield f"order {known['id']} was said to be {told} and is {known['status']}"


def _cancelled_as_promised(answers: Sequence[Answer], books: Books) -> Iterator[str]:
    orders = books.orders
    for a in answers:
        order = orders.get(a.order_id)
        if a.operation != "cancel" or order is None:
            continue
        if a.is_promise and order["status"] != "cancelled":
            yield f"order {order['id']} was to be cancelled ({a.status}) and is {order['status']}"
        refused = a.status == 409 and a.document.get("code") == "not_cancellable"
        if refused and order["status"] != "rejected":
            yield f"order {order['id']} was said to be rejected (409) and is {order['status']}"


def _refusals_are_declared(answers: Sequence[Answer]) -> Iterator[str]:
    for a in answers:
        code = str(a.document.get("code", ""))
        if a.status == 500 or (
            400 <= a.status < 500 and code not in REFUSALS[a.operation].get(a.status, frozenset())
        ):
            yield f"{a.operation} of {a.customer} was answered {a.status} {code}"


def _money(books: Books) -> Iterator[str]:
    for order in books.orders.values():
        due = order["total"] if order["status"] == "confirmed" else 0
        taken = books.taken.get(order["id"], 0)
        if taken != due:
            yield f"order {order['id']} is {order['status']} and {taken} were taken, not {due}"


def _stock(books: Books) -> Iterator[str]:
    sold: Counter[str] = Counter()
    for order in books.orders.values():
        if order["status"] == "confirmed":
            for line in order["lines"]:
                sold[line["sku"]] += line["quantity"]
    for sku, level in books.stock.items():
        left = books.received[sku] - sold[sku]
        if left < 0:
            yield f"{sku}: {sold[sku]} were sold of {books.received[sku]}"
        if (level["on_hand"], level["reserved"]) != (left, 0):
            yield f"{sku}: {left} must be left and none reserved, there are {dict(level)}"
