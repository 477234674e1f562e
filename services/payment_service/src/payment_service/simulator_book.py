"""The simulated provider's book: every statement on it, and what can happen to a charge in it.

It lies in a database of its own and knows nothing of its callers' time-outs; `simulator` adds those.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from ecom_common.database import DATABASE_ERRORS, make_engine, sql_state
from ecom_common.ids import new_id
from ecom_common.prepared import run_on
from sqlalchemy import Connection, Engine, event, text

from payment_service.provider import (
    KeyReused,
    Outcome,
    ProviderCharge,
    ProviderError,
    ProviderTimeout,
    Status,
)
from payment_service.simulator_groups import GroupCommit
from payment_service.simulator_tokens import CAPTURED, TOKENS, Behaviour, Mishap, behaviour_of

TRANSACTIONS_AT_ONCE: Final = 4

# Statement time-out and lock time-out.
_TIMEOUTS: Final = frozenset({"57014", "55P03"})

_OPENED: Final = "key, reference, amount, currency"
# Prepared, as what captures: each charge needs these two.
_OPEN: Final = (
    "INSERT INTO charges (reference, key, amount, currency, method) "
    "SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[]) "
    f"ON CONFLICT (key) DO NOTHING RETURNING {_OPENED}"
)
_OPENED_BEFORE: Final = f"SELECT {_OPENED} FROM charges WHERE key = ANY(%s)"
_LOSE = text("INSERT INTO lost_requests (key) VALUES (:key) ON CONFLICT DO NOTHING RETURNING key")
# Most charges are confirmed once and captured: one statement instead of a locked look and a change. What somebody
# else has locked is left to those, so that nobody waits with it.
_CAPTURE: Final = (
    "UPDATE charges SET state = 'captured', captured = amount, confirms = 1 "
    "WHERE reference IN (SELECT reference FROM charges WHERE reference = ANY(%s) AND state = 'open' "
    "AND confirms = 0 AND method = ANY(%s) FOR UPDATE SKIP LOCKED) RETURNING reference"
)
_PLAIN_METHODS: Final = [method for method, behaviour in TOKENS.items() if behaviour == CAPTURED]
_LOCK = text(
    "SELECT reference, method, amount, state, decline_code, captured, refunded, confirms, "
    "captures_at, db_now() AS now FROM charges WHERE reference = :reference FOR UPDATE"
)
_SAVED: Final = ("state", "decline_code", "captured", "refunded", "confirms", "captures_at")
_SAVE = text(
    f"UPDATE charges SET {', '.join(f'{name} = :{name}' for name in _SAVED)} "
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
class Charge:
    """A row of the book, locked, at the provider's time."""

    reference: str
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


class _Opening(NamedTuple):
    """A charge that is to be opened, in the order of the statement's columns."""

    reference: str
    key: str
    amount: int
    currency: str
    method: str


class _Opened(NamedTuple):
    """What the book has for a key."""

    reference: str
    amount: int
    currency: str


class Book:
    """The provider's book. Thread-safe; raises ProviderError when the database does not do its part."""

    def __init__(self, transactions: Engine, statements: Engine, *, patience_s: float) -> None:
        """`statements` commits each statement by itself: most calls need no more than one, or a part of one, whose
        turn they await for `patience_s`."""
        self._transactions = transactions
        self._statements = statements
        self._open = GroupCommit(self._open_all, patience_s=patience_s)
        self._capture = GroupCommit(self._capture_all, patience_s=patience_s)

    def open(self, key: str, *, amount: int, currency: str, method: str) -> str:
        """The reference of the one charge with this key."""
        with _answers():
            charge = self._open(_Opening(f"sim_{new_id().hex}", key, amount, currency, method))
        if (charge.amount, charge.currency) != (amount, currency):
            raise KeyReused("the key belongs to a charge of another amount")
        return charge.reference

    def _open_all(self, openings: Sequence[_Opening]) -> list[_Opened]:
        # The first with a key has it. In one order, so that two workers with the same keys do not wait for each other.
        new = {opening.key: opening for opening in reversed(openings)}
        columns = zip(*(new[key] for key in sorted(new)), strict=True)
        with self._statements.connect() as connection:
            rows = run_on(connection, _OPEN, [list(column) for column in columns])
            if before := sorted(new.keys() - {key for key, *_ in rows}):
                rows += run_on(connection, _OPENED_BEFORE, [before])
        opened = {key: _Opened(*charge) for key, *charge in rows}
        return [opened[opening.key] for opening in openings]

    def capture_plain(self, reference: str) -> bool:
        """Capture a charge that nothing is special about and that nobody has confirmed; whether it was one."""
        with _answers():
            return self._capture(reference)

    def _capture_all(self, references: Sequence[str]) -> list[bool]:
        with self._statements.connect() as connection:
            rows = run_on(connection, _CAPTURE, (list(references), _PLAIN_METHODS))
        captured = {reference for (reference,) in rows}
        return [reference in captured for reference in references]

    def lose(self, key: str) -> bool:
        """Whether this is the first time that a request with this key is lost."""
        with self._statement() as connection:
            return connection.execute(_LOSE, {"key": key}).first() is not None

    def find(self, *, reference: str | None, key: str | None) -> ProviderCharge | None:
        with self._statement() as connection:
            row = connection.execute(_FIND, {"reference": reference, "key": key}).one_or_none()
        if row is None:
            return None
        return ProviderCharge(**{**row._mapping, "status": Status(row.status)})

    @contextmanager
    def locked(self, reference: str) -> Iterator[Charge]:
        """The charge, to be changed: it is written at the end."""
        with self._locked(reference) as (_, charge):
            yield charge

    def refund(self, reference: str, key: str, amount: int) -> tuple[Outcome, Mishap | None]:
        """Refund once for each key; and the mishap that the caller meets."""
        with self._locked(reference) as (connection, charge):
            refunds = connection.execute(_REFUNDS, {"reference": reference}).all()
            known = next((refund for refund in refunds if refund.key == key), None)
            if known is not None:
                if known.amount != amount:
                    raise KeyReused("the key belongs to a refund of another amount")
                return Outcome(Status(known.state), known.code), None
            code = charge.refund(amount, earlier=len(refunds))
            outcome = Outcome(Status.REFUND_FAILED if code else Status.REFUNDED, code)
            new = {"key": key, "reference": reference, "amount": amount}
            connection.execute(_REFUND, new | {"state": outcome.status.value, "code": code})
            return outcome, charge.behaviour.mishap

    @contextmanager
    def _locked(self, reference: str) -> Iterator[tuple[Connection, Charge]]:
        with _answers(), self._transactions.begin() as connection:
            row = connection.execute(_LOCK, {"reference": reference}).one_or_none()
            if row is None:
                raise ProviderError("there is no charge with this reference")
            charge = Charge(**row._mapping)
            charge.catch_up()
            yield connection, charge
            saved = {name: getattr(charge, name) for name in _SAVED}
            connection.execute(_SAVE, {"reference": reference, **saved})

    @contextmanager
    def _statement(self) -> Iterator[Connection]:
        with _answers(), self._statements.connect() as connection:
            yield connection


@contextmanager
def _answers() -> Iterator[None]:
    """What the database does not do is an unknown outcome of the provider's."""
    try:
        yield
    except DATABASE_ERRORS as error:
        # Its text stays behind: it holds the statement's parameters.
        if sql_state(error) in _TIMEOUTS:
            raise ProviderTimeout("no answer in time") from error
        raise ProviderError(f"the provider's book fails: {type(error).__name__}") from error


def open_book(
    url: str, *, timeout_s: float, connections: int, server_options: Mapping[str, str] | None = None
) -> Book:
    """The book at `url`. A call waits for its turn for half of `timeout_s`, and each of its statements may take the
    other half. Nothing is opened yet."""
    half_s = timeout_s / 2
    timeout = f"{int(half_s * 1000)}ms"
    options = {"statement_timeout": timeout, "lock_timeout": timeout, **(server_options or {})}
    name = "payment_provider"
    # Few: only mishaps, voids and refunds need more than one statement.
    transactions = make_engine(
        url,
        application_name=name,
        pool_size=min(connections, TRANSACTIONS_AT_ONCE),
        server_options=options,
    )
    statements = make_engine(
        url, application_name=name, pool_size=connections, server_options=options
    )
    # Once for each connection: switching at each use would cost as much as a statement.
    event.listen(statements, "connect", _commit_each_statement)
    return Book(transactions, statements, patience_s=half_s)


def _commit_each_statement(connection: Any, _: object) -> None:
    connection.autocommit = True
