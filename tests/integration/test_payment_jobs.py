"""Who asks the provider when: leases, crashes, several workers, and the threads that ask."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from ecom_common import inbox
from ecom_common.batch import apply_batch
from ecom_common.database import Sessions, make_engine, make_sessions
from ecom_common.messages import Received
from ecom_contracts.messages import PaymentCharge
from ecom_contracts.messages import PaymentState as S
from payment_service.consumers import handlers
from payment_service.jobs import AHEAD, ProviderJobs
from payment_service.provider import Outcome, Status
from payment_service.service import Job, Result
from payment_service.states import Backoff, OperationState
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.chaos.wires import a_wire
from tests.support.payments import (
    AMOUNT,
    Interrupted,
    PaymentDesk,
    a_charge,
    job_settings,
    received,
)
from tests.support.shop import until


@pytest.fixture
def desk(payment_sessions: Sessions, provider_url: str) -> PaymentDesk:
    return PaymentDesk(payment_sessions, provider_url)


def test_a_worker_that_dies_between_call_and_record_leads_to_one_charge(desk: PaymentDesk) -> None:
    order = desk.charge()
    (job,) = desk.claim()
    desk.ask(job)  # and its result is lost
    assert desk.claim() == []
    later = desk.later("2min")
    assert later.work() == 1
    assert later.state(order) is S.CAPTURED
    assert later.operation(order, "charge:1").attempts == 2
    book = desk.book(order)
    assert book is not None
    assert book.captured == AMOUNT
    assert len(later.shown(order).journals) == 1


def test_a_worker_that_dies_during_a_refund_leads_to_one_refund(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.work()
    desk.cancel(order)
    (job,) = desk.claim()
    desk.ask(job)
    later = desk.later("2min")
    later.work()
    assert later.state(order) is S.REFUNDED
    book = desk.book(order)
    assert book is not None
    assert book.refunded == AMOUNT


def test_recording_a_result_twice_changes_nothing_more(desk: PaymentDesk) -> None:
    order = desk.charge()
    (job,) = desk.claim()
    result = desk.ask(job)
    desk.record(result, result)
    desk.record(result)
    assert desk.said(order) == [(S.CAPTURED, 2)]
    assert len(desk.shown(order).journals) == 1


def test_a_stale_missing_answer_does_not_end_the_lease_of_the_next_caller(
    desk: PaymentDesk,
) -> None:
    order = desk.charge()
    (first,) = desk.claim()
    later = desk.later("2min")
    (second,) = later.claim()
    assert (first.attempt, second.attempt) == (1, 2)
    later.record(Result(first, None, None, "timed out"))
    assert later.claim() == []
    assert later.state(order) is S.PROCESSING
    # An answer counts whoever brings it: it is the provider's word.
    later.record(desk.ask(first))
    assert later.state(order) is S.CAPTURED


def test_a_job_is_leased_to_one_claimer_at_a_time(desk: PaymentDesk) -> None:
    desk.give(*(a_charge() for _ in range(60)))
    start = threading.Barrier(6)

    def claim_all() -> list[Job]:
        start.wait()
        claimed: list[Job] = []
        while jobs := desk.claim(most=7):
            claimed += jobs
        return claimed

    with ThreadPoolExecutor(6) as pool:
        claims = [f.result() for f in [pool.submit(claim_all) for _ in range(6)]]
    times = Counter(job.operation_id for jobs in claims for job in jobs)
    assert len(times) == 60
    assert set(times.values()) == {1}


def test_a_lease_ends_by_the_databases_clock(desk: PaymentDesk) -> None:
    desk.charge()
    assert len(desk.claim(lease=timedelta(seconds=30))) == 1
    assert desk.later("29s").claim() == []
    assert len(desk.later("31s").claim()) == 1


def test_an_unknown_outcome_is_asked_again_after_a_growing_pause(desk: PaymentDesk) -> None:
    order = desk.charge("pm_sim_timeoutThenSuccess")
    settings = replace(job_settings(), backoff=Backoff(first_s=40, most_s=60))
    jobs = ProviderJobs(desk.sessions, desk.provider, settings)
    assert jobs.run_once() == 1
    assert jobs.run_once() == 0
    charge = desk.operation(order, "charge:1")
    assert charge.next_attempt_at is not None
    pause = charge.next_attempt_at - charge.updated_at
    assert pause == timedelta(seconds=40)


def test_a_fault_in_the_client_of_the_provider_is_an_unknown_outcome(
    desk: PaymentDesk, caplog: pytest.LogCaptureFixture
) -> None:
    order = desk.charge()

    def fail() -> None:
        raise KeyError("surprise")

    desk.provider = Interrupted(desk.simulator, before=fail)
    desk.work()
    assert desk.state(order) is S.UNKNOWN
    assert "KeyError" in caplog.text
    desk.provider = desk.simulator
    desk.work()
    assert desk.state(order) is S.CAPTURED


def test_an_undecided_charge_is_asked_again(desk: PaymentDesk) -> None:
    order = desk.charge()
    (job,) = desk.claim()
    desk.record(Result(job, None, Outcome(Status.PROCESSING)))
    assert desk.state(order) is S.UNKNOWN
    assert desk.operation(order, "charge:1").last_error == "not decided yet"
    desk.work()
    assert desk.state(order) is S.CAPTURED


def test_threads_ask_many_at_once_and_stop_when_told(desk: PaymentDesk) -> None:
    orders = [a_charge() for _ in range(100)]
    jobs = ProviderJobs(desk.sessions, desk.provider, job_settings())
    jobs.start()
    try:
        desk.give(*orders)
        jobs.wake()
        until(lambda: _states(desk, orders) == {S.CAPTURED}, timeout_s=20)
    finally:
        jobs.stop(5)


def test_what_is_leased_with_its_command_is_asked_for_without_a_claim(desk: PaymentDesk) -> None:
    orders = [a_charge() for _ in range(20)]
    jobs = ProviderJobs(desk.sessions, desk.provider, job_settings(threads=1))
    batch = [received(order, at=datetime.now(UTC)) for order in orders]
    apply = handlers(jobs)[PaymentCharge.TYPE]
    jobs.start()
    try:
        with desk.sessions.begin() as session:
            apply(session, batch)
            assert desk.book(orders[0].order_id) is None, "nobody asks before the commit"
        until(lambda: _states(desk, orders) == {S.CAPTURED}, timeout_s=20)
    finally:
        jobs.stop(5)
    assert {desk.operation(o.order_id, "charge:1").attempts for o in orders} == {1}


def test_what_was_leased_in_a_commit_that_nobody_knows_of_is_asked_for_all_the_same(
    desk: PaymentDesk,
) -> None:
    order = a_charge()
    with a_wire(desk.database_url) as (wire, url):
        engine = make_engine(url, application_name="ambiguous", pool_size=2)
        jobs = ProviderJobs(desk.sessions, desk.provider, job_settings())
        apply = handlers(jobs)[PaymentCharge.TYPE]

        def once(session: Session, batch: Sequence[Received]) -> list[None]:
            # As the consumer does it: the second time the inbox knows the message.
            fresh = inbox.claim(session, [message.envelope.id for message in batch])
            if fresh:
                apply(session, batch)
            return [None] * len(batch)

        wire.cut("after")
        message = received(order, at=datetime.now(UTC))
        assert apply_batch(make_sessions(engine), once, [message], name="test") == [None]
        engine.dispose()
    assert wire.cuts == ["after"]
    assert desk.state(order.order_id) is S.PROCESSING
    jobs.run_once()
    jobs.run_once()
    assert desk.state(order.order_id) is S.CAPTURED


def test_what_was_due_before_is_not_kept_waiting_by_what_is_new(desk: PaymentDesk) -> None:
    settings = job_settings(threads=1)
    jobs = ProviderJobs(desk.sessions, desk.provider, settings)
    apply = handlers(jobs)[PaymentCharge.TYPE]
    orders = [a_charge() for _ in range(AHEAD)]
    with desk.sessions.begin() as session:
        apply(session, [received(order, at=datetime.now(UTC)) for order in orders])
    assert len(desk.claim()) == AHEAD // 2, "new ones take half of the room"
    with desk.sessions.begin() as session:
        apply(session, [received(a_charge(), at=datetime.now(UTC))])
    assert len(desk.claim()) == 1


def _states(desk: PaymentDesk, orders: list[PaymentCharge]) -> set[S]:
    return {desk.state(order.order_id) for order in orders}


def test_a_stop_records_what_has_begun_and_gives_back_the_rest(desk: PaymentDesk) -> None:
    desk.give(*(a_charge() for _ in range(5)))
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go_on.wait(10)

    desk.provider = Interrupted(desk.simulator, before=hold)
    jobs = ProviderJobs(desk.sessions, desk.provider, job_settings(threads=1))
    jobs.start()
    jobs.wake()
    assert begun.wait(10)
    stopper = threading.Thread(target=jobs.stop, args=(10,))
    stopper.start()
    go_on.set()
    stopper.join()
    # One was under way and is recorded; the others can be claimed at once.
    desk.provider = desk.simulator
    assert desk.work() == 4


def test_a_job_whose_lease_is_almost_over_is_given_back_and_not_begun(desk: PaymentDesk) -> None:
    desk.give(a_charge(), a_charge())
    calls: list[float] = []

    def slow() -> None:
        calls.append(time.monotonic())
        time.sleep(0.4)

    desk.provider = Interrupted(desk.simulator, before=slow)
    jobs = ProviderJobs(desk.sessions, desk.provider, job_settings(threads=1, lease_s=0.3))
    jobs.start()
    until(lambda: len(calls) >= 2, timeout_s=10)
    jobs.stop(5)
    desk.provider = desk.simulator
    desk.work(rounds=2)
    with desk.sessions() as session:
        open_ = session.scalar(text("SELECT count(*) FROM payments WHERE state <> 'captured'"))
    assert open_ == 0


def test_a_timeout_while_cancelling_is_asked_again(desk: PaymentDesk) -> None:
    order = desk.charge()
    desk.cancel(order)
    (void,) = desk.claim()
    desk.record(Result(void, None, None, "ProviderTimeout"))
    assert desk.operation(order, "void:1").state is OperationState.UNKNOWN
    assert desk.state(order) is S.UNKNOWN
    # Only the void asks: its answer is about the charge, too.
    assert desk.work() == 1
    assert desk.state(order) is S.CANCELLED
