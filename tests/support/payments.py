"""A payment service without its processes: commands go in, jobs are run step by step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from ecom_common.batch import apply_batch
from ecom_common.clock import database_time
from ecom_common.database import Sessions, make_engine, make_sessions
from ecom_common.ids import new_id
from ecom_common.messages import Received
from ecom_common.tables import outbox
from ecom_contracts.envelope import Envelope, decode
from ecom_contracts.messages import (
    Message,
    PaymentCancel,
    PaymentChanged,
    PaymentCharge,
    PaymentState,
)
from payment_service import service
from payment_service.jobs import JobSettings, ProviderJobs, ask
from payment_service.models import Operation, PaymentIntent
from payment_service.provider import Outcome, Provider, ProviderCharge
from payment_service.service import Job, Result, Shown
from payment_service.simulator import Simulator
from payment_service.simulator_book import open_book
from payment_service.states import Backoff, Cause
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from tests.support.envelopes import an_envelope

AMOUNT: Final = 4497
TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LEASE: Final = timedelta(seconds=60)
AGAIN_AT_ONCE: Final = Backoff(first_s=0, most_s=0)


def a_cause() -> Cause:
    return Cause(new_id(), "a-correlation", TRACE)


def a_charge(order_id: UUID | None = None, **changes: Any) -> PaymentCharge:
    values: dict[str, Any] = {
        "order_id": order_id or new_id(),
        "customer_id": "alice",
        "currency": "EUR",
        "amount": AMOUNT,
        "method": "pm_card_visa",
    }
    return PaymentCharge(**(values | changes))


def a_cancel(order_id: UUID, **changes: Any) -> PaymentCancel:
    values: dict[str, Any] = {
        "order_id": order_id,
        "customer_id": "alice",
        "currency": "EUR",
        "amount": AMOUNT,
    }
    return PaymentCancel(**(values | changes))


def received(data: Message, *, at: Any) -> Received:
    envelope = an_envelope(data, time=at, correlation_id="a-correlation", traceparent=TRACE)
    return Received(envelope, data.TOPIC.name, 0, 0)


def a_simulator(url: str, *, clock_offset: str = "0", late_s: float = 3) -> Simulator:
    """The simulator without its waits."""
    book = open_book(
        url, timeout_s=1, connections=8, server_options={"ecom.clock_offset": clock_offset}
    )
    return Simulator(book, timeout_s=1, slow_s=0, late_s=late_s, sleep=lambda _: None)


def job_settings(*, threads: int = 4, lease_s: float = 60) -> JobSettings:
    return JobSettings(threads=threads, call_timeout_s=0.01, lease_s=lease_s, backoff=AGAIN_AT_ONCE)


@dataclass
class PaymentDesk:
    """One payment service and its provider."""

    sessions: Sessions
    provider_url: str
    provider: Provider = field(init=False)
    simulator: Simulator = field(init=False)

    def __post_init__(self) -> None:
        self.simulator = a_simulator(self.provider_url)
        self.provider = self.simulator

    @property
    def database_url(self) -> str:
        bind = self.sessions.kw["bind"]
        assert isinstance(bind, Engine)
        return bind.url.set(drivername="postgresql").render_as_string(hide_password=False)

    def give(self, *commands: Message, most: int = 0) -> list[Job]:
        """Apply the commands as one batch; the jobs, at most so many, that were leased with it."""
        with self.sessions.begin() as session:
            now = database_time(session)
            batch = [received(c, at=now) for c in commands]
            return service.apply_payment_commands(session, batch, most=most, lease=LEASE)

    def give_insistently(self, command: Message) -> None:
        """Apply the command as a worker would: again, when another one was in the way."""

        def apply(session: Session, batch: Sequence[Received]) -> list[None]:
            service.apply_payment_commands(session, batch, most=0, lease=LEASE)
            return [None] * len(batch)

        message = received(command, at=datetime.now(UTC))
        (outcome,) = apply_batch(self.sessions, apply, [message], name="tests")
        assert outcome is None, outcome

    def charge(self, method: str = "pm_card_visa", **changes: Any) -> UUID:
        command = a_charge(method=method, **changes)
        self.give(command)
        return command.order_id

    def cancel(self, order_id: UUID) -> None:
        self.give(a_cancel(order_id))

    def claim(self, *, most: int = 100, lease: timedelta = LEASE) -> list[Job]:
        with self.sessions.begin() as session:
            return service.claim_jobs(session, most=most, lease=lease)

    def ask(self, job: Job) -> Result:
        return ask(self.provider, job)

    def record(self, *results: Result) -> None:
        with self.sessions.begin() as session:
            service.record_results(session, results, backoff=AGAIN_AT_ONCE)

    def work(self, rounds: int = 1) -> int:
        """Claim, ask and record so often; how many jobs that were."""
        jobs = ProviderJobs(self.sessions, self.provider, job_settings())
        return sum(jobs.run_once() for _ in range(rounds))

    def later(self, offset: str) -> "PaymentDesk":
        """The same service and provider, at another time: "2min"."""
        engine = make_engine(
            self.database_url,
            application_name="tests",
            pool_size=4,
            server_options={"ecom.clock_offset": offset},
        )
        desk = PaymentDesk(make_sessions(engine), self.provider_url)
        desk.provider = desk.simulator = a_simulator(self.provider_url, clock_offset=offset)
        return desk

    def shown(self, order_id: UUID) -> Shown:
        with self.sessions() as session:
            (shown,) = service.list_payments(session, order_id=order_id, before=None, limit=2)
            return shown

    def intent(self, order_id: UUID) -> PaymentIntent:
        return self.shown(order_id).intent

    def state(self, order_id: UUID) -> PaymentState:
        return self.intent(order_id).state

    def operation(self, order_id: UUID, key: str) -> Operation:
        """As "charge:1"."""
        operations = self.intent(order_id).operations
        return next(o for o in operations if o.key == f"{order_id}:{key}")

    def booked(self, order_id: UUID) -> dict[str, int]:
        """The balance of each account over this order's journals."""
        balances: dict[str, int] = {}
        for journal in self.shown(order_id).journals:
            for entry in journal.entries:
                balances[entry.account] = balances.get(entry.account, 0) + entry.amount
        return balances

    def book(self, order_id: UUID) -> ProviderCharge | None:
        """The provider's own record of the order's charge."""
        return self.simulator.find(key=f"{order_id}:charge:1")

    def said(self, order_id: UUID) -> list[tuple[PaymentState, int]]:
        """State and version of every answer and event, in order."""
        return [(e.data.state, e.data.version) for e in self.envelopes(order_id)]

    def envelopes(self, order_id: UUID) -> list[Envelope[PaymentChanged]]:
        with self.sessions() as session:
            rows = session.scalars(
                select(outbox.c.payload).where(outbox.c.key == str(order_id)).order_by(outbox.c.id)
            )
            return [decode(bytes(row)) for row in rows]  # type: ignore[misc]


@dataclass
class Interrupted:
    """A provider at which something else happens in the middle of a confirm."""

    inner: Provider
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None

    def open(self, key: str, *, amount: int, currency: str, method: str) -> str:
        return self.inner.open(key, amount=amount, currency=currency, method=method)

    def confirm(self, reference: str) -> Outcome:
        self.before()
        outcome = self.inner.confirm(reference)
        self.after()
        return outcome

    def cancel(self, reference: str) -> Outcome:
        return self.inner.cancel(reference)

    def refund(self, reference: str, key: str, amount: int) -> Outcome:
        return self.inner.refund(reference, key, amount)

    def find(
        self, *, reference: str | None = None, key: str | None = None
    ) -> ProviderCharge | None:
        return self.inner.find(reference=reference, key=key)
