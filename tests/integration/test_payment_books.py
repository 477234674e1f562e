"""Two books, kept apart: ours and the provider's. Whatever happens in between, in the end they agree."""

import random
import threading
from uuid import UUID

import pytest
from ecom_common.database import Sessions
from ecom_contracts.messages import Message
from ecom_contracts.messages import PaymentState as S
from payment_service.jobs import ProviderJobs
from payment_service.simulator_tokens import TOKENS, Mishap
from sqlalchemy import text

from tests.support.payments import PaymentDesk, a_cancel, a_charge, job_settings

SETTLED = {S.CAPTURED, S.DECLINED, S.CANCELLED, S.REFUNDED}
NEVER_REFUNDED = {name for name, does in TOKENS.items() if does.mishap is Mishap.REFUND_FAILS}


@pytest.fixture
def desk(payment_sessions: Sessions, provider_url: str) -> PaymentDesk:
    return PaymentDesk(payment_sessions, provider_url)


class Day:
    """Orders with every payment method there is, some of them called off, in no particular order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        methods = [method for method in TOKENS if method not in NEVER_REFUNDED]
        self.charges = [a_charge(method=method) for method in (*methods, "pm_unheard_of")]
        self.called_off = {c.order_id for c in self.charges if self.random.random() < 0.5}

    def commands(self) -> list[Message]:
        """Each command once to three times; cancels may come before their charges."""
        commands: list[Message] = [*self.charges, *(a_cancel(order) for order in self.called_off)]
        commands = [c for c in commands for _ in range(self.random.randint(1, 3))]
        self.random.shuffle(commands)
        return commands


def settle(desk: PaymentDesk, orders: set[UUID]) -> None:
    """Let an hour pass in which everything is asked again, and failed refunds once more."""
    for hours in ("1h", "2h"):
        later = desk.later(hours)
        while later.work():
            pass
        for order in sorted(orders):
            if later.state(order) is S.REFUND_FAILED:
                later.cancel(order)
    later = desk.later("3h")
    while later.work():
        pass


def check(desk: PaymentDesk, day: Day) -> None:
    for charge in day.charges:
        order = charge.order_id
        intent, book = desk.intent(order), desk.later("4h").book(order)
        assert intent.state in SETTLED, charge.method
        assert book is None or (book.captured, book.refunded) == (intent.captured, intent.refunded)
        taken = intent.captured - intent.refunded
        assert desk.booked(order).get("provider_clearing", 0) == taken, charge.method
        if order in day.called_off:
            assert taken == 0, charge.method
        declined = charge.method not in TOKENS or TOKENS[charge.method].decline_code
        if order not in day.called_off and not declined:
            assert taken == intent.amount, charge.method
    with desk.sessions() as session:
        assert session.scalar(text("SELECT sum(amount) FROM ledger_entries")) == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_the_books_agree_after_a_day_of_crashes(desk: PaymentDesk, seed: int) -> None:
    day = Day(seed)
    lost = []
    commands = day.commands()
    while commands:
        count = day.random.randint(1, 8)
        batch, commands = commands[:count], commands[count:]
        desk.give(*batch)
        for job in desk.claim(most=day.random.randint(0, 6)):
            result = desk.ask(job)
            if day.random.random() < 0.4:
                lost.append(result)
            else:
                desk.record(result)
    # Some of what seemed lost was only slow.
    settle(desk, day.called_off)
    for result in lost[::2]:
        desk.record(result)
    check(desk, day)


def test_the_books_agree_after_two_workers_have_worked_at_once(desk: PaymentDesk) -> None:
    day = Day(3)
    workers = [ProviderJobs(desk.sessions, desk.provider, job_settings()) for _ in range(2)]
    commands = day.commands()
    for worker in workers:
        worker.start()
    halves = [
        threading.Thread(target=give_one_by_one, args=(desk, commands[half::2])) for half in (0, 1)
    ]
    for thread in halves:
        thread.start()
    for thread in halves:
        thread.join()
    for worker in workers:
        worker.stop(10)
    settle(desk, day.called_off)
    check(desk, day)


def give_one_by_one(desk: PaymentDesk, commands: list[Message]) -> None:
    for command in commands:
        desk.give_insistently(command)
