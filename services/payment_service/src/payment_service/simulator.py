"""The built-in payment provider: a simulation with a book of its own, in a database of its own.

It stands for somebody else's system. Nothing here reads or writes our tables; what it did can be compared
with our ledger, key by key. Its faults are those of real providers, chosen by the payment method, and
always decided in its book first: a caller who never hears of a capture has been charged nonetheless.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NoReturn

from ecom_common.database import make_engine, sql_state
from ecom_common.ids import new_id
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from payment_service.provider import (
    KeyReused,
    Outcome,
    ProviderCharge,
    ProviderError,
    ProviderTimeout,
    Status,
)
from payment_service.simulator_tokens import Behaviour, Mishap, behaviour_of

SIMULATED_TIMEOUT_S: Final = 0.5
"""Longest that a simulated time-out takes: real enough, and a demonstration need not wait for it."""
# Of the book's database: statement time-out and lock time-out.
_TIMEOUTS: Final = frozenset({"57014", "55P03"})

_OPEN = text(
    "INSERT INTO charges (reference, key, amount, currency, method) "
    "VALUES (:reference, :key, :amount, :currency, :method) "
    # The update changes nothing; it makes the row that was there come back.
    "ON CONFLICT (key) DO UPDATE SET key = excluded.key RETURNING reference, amount, currency"
)
_LOSE = text("INSERT INTO lost_requests (key) VALUES (:key) ON CONFLICT DO NOTHING RETURNING key")
_LOCK = text(
    "SELECT method, amount, state, decline_code, captured, refunded, confirms, captures_at, "
    "db_now() AS now FROM charges WHERE reference = :reference FOR UPDATE"
)
_SAVE = text(
    "UPDATE charges SET state = :state, decline_code = :decline_code, captured = :captured, "
    "refunded = :refunded, confirms = :confirms, captures_at = :captures_at "
    "WHERE reference = :reference"
)
_REFUNDS = text("SELECT key, amount, state, code FROM refunds WHERE reference = :reference")
_REFUND = text(
    "INSERT INTO refunds (key, reference, amount, state, code) "
    "VALUES (:key, :reference, :amount, :state, :code)"
)
_FIND = text(
    "SELECT reference, key, currency, amount, captured, refunded, state AS status "
    "FROM book WHERE reference = :reference OR key = :key"
)


@dataclass(slots=True)
class _Charge:
    """A row of the book, locked, at the provider's time."""

    method: str
    amount: int
    state: str
    decline_code: str | None
    captured: int
    refunded: int
    confirms: int
    captures_at: datetime | None
    now: datetime

    @property
    def behaviour(self) -> Behaviour:
        return behaviour_of(self.method)

    @property
    def outcome(self) -> Outcome:
        return Outcome(Status(self.state), self.decline_code)

    def catch_up(self) -> None:
        """A late capture takes place when its time has come, whether somebody asks or not."""
        due = self.captures_at is not None and self.captures_at <= self.now
        if self.state == Status.PROCESSING and due:
            self._capture()

    def confirm(self, *, late: timedelta) -> Mishap | None:
        """Decide, if nothing is decided yet; the mishap that its caller meets."""
        self.confirms += 1
        mishap = self.behaviour.mishap if self.confirms == 1 else None
        if self.state == Status.OPEN and mishap is not Mishap.ERROR:
            self._decide(self.behaviour.decline_code, late if mishap is Mishap.LATE else None)
        return mishap

    def cancel(self) -> None:
        if self.state in (Status.OPEN, Status.PROCESSING):
            self.state = Status.CANCELLED

    def refund(self, amount: int, *, earlier: int) -> str | None:
        """Give back, or say why not."""
        mishap = self.behaviour.mishap
        if mishap is Mishap.REFUND_FAILS or (mishap is Mishap.REFUND_FAILS_ONCE and not earlier):
            return "refund_rejected"
        if self.refunded + amount > self.captured:
            return "exceeds_captured"
        self.refunded += amount
        return None

    def _decide(self, decline_code: str | None, late: timedelta | None) -> None:
        if decline_code is not None:
            self.state = Status.DECLINED
            self.decline_code = decline_code
        elif late is not None:
            self.state = Status.PROCESSING
            self.captures_at = self.now + late
        else:
            self._capture()

    def _capture(self) -> None:
        self.state = Status.CAPTURED
        self.captured = self.amount


class Simulator:
    """A `Provider` on a Postgres database. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        *,
        timeout_s: float,
        slow_s: float,
        late_s: float,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._slow_s = slow_s
        self._late = timedelta(seconds=late_s)
        self._sleep = sleep

    def open(self, key: str, *, amount: int, currency: str, method: str) -> str:
        new = {"reference": f"sim_{new_id().hex}", "key": key, "amount": amount}
        if behaviour_of(method).mishap is Mishap.NEVER_SEEN and self._loses(key):
            self._time_out()
        with self._transaction() as connection:
            row = connection.execute(_OPEN, new | {"currency": currency, "method": method}).one()
        if (row.amount, row.currency) != (amount, currency):
            raise KeyReused("the key belongs to a charge of another amount")
        return str(row.reference)

    def confirm(self, reference: str) -> Outcome:
        with self._locked(reference) as (_, charge):
            mishap = charge.confirm(late=self._late)
        if mishap is Mishap.ERROR:
            raise ProviderError("500 Internal Server Error")
        if mishap in (Mishap.ANSWER_LOST, Mishap.LATE):
            self._time_out()
        if mishap is Mishap.SLOW:
            self._take(self._slow_s)
        return charge.outcome

    def cancel(self, reference: str) -> Outcome:
        with self._locked(reference) as (_, charge):
            charge.cancel()
        return charge.outcome

    def refund(self, reference: str, key: str, amount: int) -> Outcome:
        with self._locked(reference) as (connection, charge):
            refunds = connection.execute(_REFUNDS, {"reference": reference}).all()
            known = next((refund for refund in refunds if refund.key == key), None)
            if known is None:
                code = charge.refund(amount, earlier=len(refunds))
                outcome = Outcome(Status.REFUND_FAILED if code else Status.REFUNDED, code)
                new = {"key": key, "reference": reference, "amount": amount}
                connection.execute(_REFUND, new | {"state": outcome.status.value, "code": code})
            elif known.amount != amount:
                raise KeyReused("the key belongs to a refund of another amount")
            else:
                outcome = Outcome(Status(known.state), known.code)
        if known is None and charge.behaviour.mishap is Mishap.REFUND_ANSWER_LOST:
            self._time_out()
        return outcome

    def find(
        self, *, reference: str | None = None, key: str | None = None
    ) -> ProviderCharge | None:
        with self._transaction() as connection:
            row = connection.execute(_FIND, {"reference": reference, "key": key}).one_or_none()
        if row is None:
            return None
        return ProviderCharge(**{**row._mapping, "status": Status(row.status)})

    def _loses(self, key: str) -> bool:
        with self._transaction() as connection:
            return connection.execute(_LOSE, {"key": key}).first() is not None

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            # The text of the error stays behind: it holds the statement's parameters.
            if sql_state(error) in _TIMEOUTS:
                raise ProviderTimeout("no answer in time") from error
            raise ProviderError(f"the provider's book fails: {type(error).__name__}") from error

    @contextmanager
    def _locked(self, reference: str) -> Iterator[tuple[Connection, _Charge]]:
        with self._transaction() as connection:
            row = connection.execute(_LOCK, {"reference": reference}).one_or_none()
            if row is None:
                raise ProviderError("there is no charge with this reference")
            charge = _Charge(**row._mapping)
            charge.catch_up()
            yield connection, charge
            saved = {name: getattr(charge, name) for name in _SAVED}
            connection.execute(_SAVE, {"reference": reference, **saved})

    def _time_out(self) -> NoReturn:
        self._sleep(min(self._timeout_s, SIMULATED_TIMEOUT_S))
        raise ProviderTimeout("no answer in time")

    def _take(self, seconds: float) -> None:
        self._sleep(min(seconds, self._timeout_s))
        if seconds >= self._timeout_s:
            raise ProviderTimeout("no answer in time")


_SAVED: Final = ("state", "decline_code", "captured", "refunded", "confirms", "captures_at")


def make_simulator(
    url: str, *, timeout_s: float, connections: int, slow_s: float, late_s: float
) -> Simulator:
    """The simulator on the book at `url`; nothing is opened yet."""
    engine = make_engine(
        url,
        application_name="payment_provider",
        pool_size=connections,
        server_options={
            "statement_timeout": f"{int(timeout_s * 1000)}ms",
            "lock_timeout": f"{int(timeout_s * 1000)}ms",
        },
    )
    return Simulator(engine, timeout_s=timeout_s, slow_s=slow_s, late_s=late_s)
