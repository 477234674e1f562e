"""What the database itself refuses, whoever asks: with plain SQL as the service's own role, or as the owner."""

from contextlib import closing
from uuid import UUID

import psycopg2
import pytest
from ecom_common.database import Sessions
from ecom_common.ids import new_id
from payment_service.states import Account
from psycopg2.errors import CheckViolation
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from tests.support.databases import OWNERS, Databases
from tests.support.payments import AMOUNT, PaymentDesk


@pytest.fixture
def desk(payment_sessions: Sessions, provider_url: str) -> PaymentDesk:
    return PaymentDesk(payment_sessions, provider_url)


def refused(desk: PaymentDesk, *statements: str, **values: object) -> str:
    """Run the statements in one transaction; the text of the refusal."""
    with pytest.raises(DBAPIError) as caught:
        execute(desk, *statements, **values)
    return str(caught.value.orig)


def execute(desk: PaymentDesk, *statements: str, **values: object) -> None:
    with desk.sessions.begin() as session:
        for statement in statements:
            session.execute(text(statement), values)


FORBIDDEN = (
    "UPDATE ledger_entries SET amount = amount + 1",
    "DELETE FROM ledger_entries",
    "TRUNCATE ledger_entries",
    "UPDATE ledger_journals SET booked_at = now()",
    "DELETE FROM ledger_journals",
    "DELETE FROM operations",
    "DELETE FROM payments",
    "UPDATE operations SET key = 'another'",
    "UPDATE operations SET kind = 'void'",
    "UPDATE operations SET amount = 1",
    "UPDATE payments SET amount = amount + 1",
    "UPDATE payments SET order_id = gen_random_uuid()",
    "ALTER TABLE ledger_entries DISABLE TRIGGER ALL",
    "CREATE TABLE mine (id int)",
)


def test_what_is_written_for_good_cannot_be_changed(desk: PaymentDesk) -> None:
    desk.charge()
    desk.work()
    for statement in FORBIDDEN:
        message = refused(desk, statement)
        assert "permission denied" in message or "must be owner" in message, statement


@pytest.fixture
def unbooked(desk: PaymentDesk) -> tuple[PaymentDesk, UUID, UUID]:
    """A charge that nothing is booked for."""
    order = desk.charge()
    operation = desk.operation(order, "charge:1")
    return desk, operation.payment_id, operation.id


_JOURNAL = (
    "INSERT INTO ledger_journals (operation_id, payment_id, kind, currency, booked_at) "
    "VALUES (:operation, :payment, 'capture', 'EUR', now())"
)
_ENTRY = "INSERT INTO ledger_entries (operation_id, account, amount) VALUES (:operation, {}, {})"
_DEBIT = _ENTRY.format("'provider_clearing'", 100)
_CREDIT = _ENTRY.format("'customer_receipts'", -100)


def test_a_balanced_journal_is_accepted(unbooked: tuple[PaymentDesk, UUID, UUID]) -> None:
    desk, payment, operation = unbooked
    execute(desk, _JOURNAL, _DEBIT, _CREDIT, operation=operation, payment=payment)


def test_a_journal_that_does_not_balance_is_refused(
    unbooked: tuple[PaymentDesk, UUID, UUID],
) -> None:
    desk, payment, operation = unbooked
    for statements in (
        (_JOURNAL,),
        (_JOURNAL, _DEBIT),
        (_JOURNAL, _DEBIT, _ENTRY.format("'customer_receipts'", -99)),
    ):
        message = refused(desk, *statements, operation=operation, payment=payment)
        assert "does not balance" in message


def test_nothing_is_added_to_a_journal_later(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.work()
    operation = desk.operation(order, "charge:1")
    assert "pk_ledger_entries" in refused(desk, _DEBIT, operation=operation.id)


def test_a_whole_journal_has_room_for_no_other_entry() -> None:
    assert len(Account) == 2, "new entries have to be looked at again: V3__complete_journals.sql"


def test_what_is_booked_stays_balanced_whoever_changes_it(
    desk: PaymentDesk, databases: Databases
) -> None:
    desk.charge()
    desk.work()
    name = make_url(desk.database_url).database
    assert name is not None
    with closing(psycopg2.connect(databases.url(name, OWNERS["paymentdb"]))) as owner:
        owner.cursor().execute("UPDATE ledger_entries SET amount = amount + 1")
        with pytest.raises(CheckViolation, match="does not balance"):
            owner.commit()


def test_an_account_outside_the_chart_is_refused(
    unbooked: tuple[PaymentDesk, UUID, UUID],
) -> None:
    desk, payment, operation = unbooked
    message = refused(
        desk, _JOURNAL, _ENTRY.format("'petty_cash'", 1), operation=operation, payment=payment
    )
    assert "ck_ledger_entries_account" in message


def test_an_operation_is_booked_once(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.work()
    operation = desk.operation(order, "charge:1")
    message = refused(
        desk, _JOURNAL, _DEBIT, _CREDIT, operation=operation.id, payment=operation.payment_id
    )
    assert "pk_ledger_journals" in message


CONTRADICTIONS = {
    "captured = amount + 1": "ck_payments_money",
    "refunded = captured + 1": "ck_payments_money",
    "captured = 0": "ck_payments_captured",
    "refunded = captured": "ck_payments_refunded",
    "state = 'refunded'": "ck_payments_refunded",
    "state = 'paid'": "ck_payments",
    "state = 'declined', captured = 0": "ck_payments_decline_code",
    "version = 0": "ck_payments_version",
}


def test_money_and_state_agree(desk: PaymentDesk) -> None:
    desk.charge()
    desk.work()
    for change, constraint in CONTRADICTIONS.items():
        assert constraint in refused(desk, f"UPDATE payments SET {change}"), change


_OPERATION = (
    "INSERT INTO operations (id, payment_id, kind, number, key, amount, state, attempts, cause_id, "
    "created_at, updated_at) SELECT :id, payment_id, '{kind}', {number}, 'k', amount, 'pending', 0, "
    ":id, now(), now() FROM operations LIMIT 1"
)


def test_there_is_one_charge_and_one_refund_at_a_time(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.work()
    desk.cancel(order)
    for kind, number, constraint in (
        ("charge", 1, "uq_operations_payment_id_kind_number"),
        ("charge", 2, "ck_operations_number"),
        ("void", 2, "ck_operations_number"),
        ("refund", 2, "ix_operations_payment_id"),
        ("gift", 1, "ck_operations_kind"),
    ):
        statement = _OPERATION.format(kind=kind, number=number)
        assert constraint in refused(desk, statement, id=new_id()), kind


def test_an_order_has_one_intent(desk: PaymentDesk) -> None:
    order = desk.charge()
    message = refused(
        desk,
        "INSERT INTO payments SELECT :id, order_id, customer_id, currency, amount, method, state, "
        "version, captured, refunded, decline_code, provider_reference, cancel_requested_at, "
        "created_at, updated_at FROM payments WHERE order_id = :order",
        id=new_id(),
        order=order,
    )
    assert "uq_payments_order_id" in message


def test_all_journals_sum_to_zero_after_a_mixed_day(desk: PaymentDesk) -> None:
    orders = [
        desk.charge(method)
        for method in ("pm_card_visa", "pm_sim_error", "pm_card_chargeDeclined", "pm_card_jcb")
    ]
    desk.work(rounds=2)
    desk.cancel(orders[0])
    desk.work()
    with desk.sessions() as session:
        assert session.scalar(text("SELECT sum(amount) FROM ledger_entries")) == 0
        taken = session.scalar(text("SELECT sum(captured - refunded) FROM payments"))
        clearing = session.scalar(
            text("SELECT sum(amount) FROM ledger_entries WHERE account = 'provider_clearing'")
        )
    assert taken == clearing == 2 * AMOUNT
