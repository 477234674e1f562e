"""What any implementation of the provider protocol must do, tried with the simulator; and its mishaps."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest
from ecom_common.ids import new_id
from payment_service.provider import (
    KeyReused,
    Outcome,
    Provider,
    ProviderCharge,
    ProviderError,
    ProviderTimeout,
    Status,
)
from payment_service.simulator import Simulator
from payment_service.simulator_tokens import TOKENS, Mishap

from tests.support.payments import AMOUNT, a_simulator


@pytest.fixture
def simulator(provider_url: str) -> Simulator:
    return a_simulator(provider_url)


@pytest.fixture
def provider(simulator: Simulator) -> Provider:
    """The implementation under test."""
    return simulator


def a_key() -> str:
    return f"{new_id()}:charge:1"


def opened(provider: Provider, method: str = "pm_card_visa", *, key: str | None = None) -> str:
    return provider.open(key or a_key(), amount=AMOUNT, currency="EUR", method=method)


def found(provider: Provider, reference: str) -> ProviderCharge:
    charge = provider.find(reference=reference)
    assert charge is not None
    return charge


# ---- conformance


def test_opening_moves_no_money(provider: Provider) -> None:
    charge = found(provider, opened(provider))
    assert (charge.status, charge.captured, charge.refunded) == (Status.OPEN, 0, 0)
    assert (charge.amount, charge.currency) == (AMOUNT, "EUR")


def test_one_key_is_one_charge(provider: Provider) -> None:
    key = a_key()
    assert opened(provider, key=key) == opened(provider, key=key)
    by_key = provider.find(key=key)
    assert by_key is not None
    assert by_key == found(provider, by_key.reference)


def test_one_key_is_one_charge_for_callers_at_the_same_time(provider: Provider) -> None:
    key = a_key()
    with ThreadPoolExecutor(6) as pool:
        references = set(pool.map(lambda _: opened(provider, key=key), range(12)))
    assert len(references) == 1


def test_a_key_with_another_amount_is_refused(provider: Provider) -> None:
    key = a_key()
    opened(provider, key=key)
    with pytest.raises(KeyReused):
        provider.open(key, amount=AMOUNT + 1, currency="EUR", method="pm_card_visa")
    with pytest.raises(KeyReused):
        provider.open(key, amount=AMOUNT, currency="USD", method="pm_card_visa")


def test_of_two_amounts_with_one_key_at_the_same_time_one_is_refused(provider: Provider) -> None:
    key = a_key()

    def amount_of(number: int) -> int | type[KeyReused]:
        amount = AMOUNT + number % 2
        try:
            provider.open(key, amount=amount, currency="EUR", method="pm_card_visa")
        except KeyReused:
            return KeyReused
        return amount

    with ThreadPoolExecutor(8) as pool:
        outcomes = set(pool.map(amount_of, range(16)))
    charge = provider.find(key=key)
    assert charge is not None
    assert outcomes == {charge.amount, KeyReused}


def test_many_at_the_same_time_are_one_charge_each(provider: Provider) -> None:
    keys = [a_key() for _ in range(60)]

    def pay(key: str) -> str:
        reference = opened(provider, key=key)
        assert provider.confirm(reference) == Outcome(Status.CAPTURED)
        return reference

    with ThreadPoolExecutor(12) as pool:
        references = list(pool.map(pay, keys))
    assert len(set(references)) == len(keys)
    charges = [found(provider, reference) for reference in references]
    assert [charge.key for charge in charges] == keys
    assert {charge.captured for charge in charges} == {AMOUNT}


def test_who_waits_for_a_charge_that_somebody_holds_waits_alone(
    provider: Provider, provider_url: str
) -> None:
    held, free = opened(provider), opened(provider)
    with ThreadPoolExecutor(2) as pool, closing(psycopg2.connect(provider_url)) as somebody:
        somebody.cursor().execute("SELECT FROM charges WHERE reference = %s FOR UPDATE", [held])
        waits = pool.submit(provider.confirm, held)
        assert pool.submit(provider.confirm, free).result() == Outcome(Status.CAPTURED)
        assert not waits.done()
        somebody.rollback()
        assert waits.result() == Outcome(Status.CAPTURED)


def test_confirming_captures_once_however_often_it_is_asked(provider: Provider) -> None:
    reference = opened(provider)
    with ThreadPoolExecutor(4) as pool:
        outcomes = set(pool.map(provider.confirm, [reference] * 8))
    assert outcomes == {Outcome(Status.CAPTURED)}
    assert found(provider, reference).captured == AMOUNT


def test_a_decline_is_final_and_has_a_code(provider: Provider) -> None:
    reference = opened(provider, "pm_card_chargeDeclinedInsufficientFunds")
    declined = Outcome(Status.DECLINED, "insufficient_funds")
    assert provider.confirm(reference) == provider.confirm(reference) == declined
    assert provider.cancel(reference) == declined
    assert found(provider, reference).captured == 0


def test_after_a_cancel_no_confirm_succeeds(provider: Provider) -> None:
    reference = opened(provider)
    assert provider.cancel(reference) == Outcome(Status.CANCELLED)
    assert provider.cancel(reference) == Outcome(Status.CANCELLED)
    assert provider.confirm(reference) == Outcome(Status.CANCELLED)
    assert found(provider, reference).captured == 0


def test_a_captured_charge_says_so_when_it_is_cancelled(provider: Provider) -> None:
    reference = opened(provider)
    provider.confirm(reference)
    assert provider.cancel(reference) == Outcome(Status.CAPTURED)
    assert found(provider, reference).status is Status.CAPTURED


def test_confirm_and_cancel_at_the_same_time_agree_on_who_was_first(provider: Provider) -> None:
    for _ in range(10):
        reference = opened(provider)
        asks: list[Callable[[str], Outcome]] = [provider.confirm, provider.cancel] * 2
        with ThreadPoolExecutor(4) as pool:
            outcomes = {f.result() for f in [pool.submit(ask, reference) for ask in asks]}
        assert len(outcomes) == 1
        captured = outcomes == {Outcome(Status.CAPTURED)}
        assert found(provider, reference).captured == (AMOUNT if captured else 0)


def test_a_refund_key_refunds_once(provider: Provider) -> None:
    reference = opened(provider)
    provider.confirm(reference)
    refunds = {provider.refund(reference, "refund-key", AMOUNT) for _ in range(3)}
    assert refunds == {Outcome(Status.REFUNDED)}
    assert found(provider, reference).refunded == AMOUNT
    with pytest.raises(KeyReused):
        provider.refund(reference, "refund-key", AMOUNT - 1)


def test_no_more_is_refunded_than_was_captured(provider: Provider) -> None:
    reference = opened(provider)
    assert provider.refund(reference, "too-early", AMOUNT).status is Status.REFUND_FAILED
    provider.confirm(reference)
    assert provider.refund(reference, "one", AMOUNT).status is Status.REFUNDED
    assert provider.refund(reference, "two", 1).status is Status.REFUND_FAILED
    assert found(provider, reference).refunded == AMOUNT


def test_the_same_refund_key_gets_the_same_answer_also_when_it_failed(provider: Provider) -> None:
    reference = opened(provider)
    early = provider.refund(reference, "early", AMOUNT)
    provider.confirm(reference)
    assert provider.refund(reference, "early", AMOUNT) == early


def test_what_the_provider_does_not_know_is_not_found(provider: Provider) -> None:
    assert provider.find(reference="nothing") is None
    assert provider.find(key="nothing") is None
    for call in (provider.confirm, provider.cancel):
        with pytest.raises(ProviderError):
            call("nothing")


# ---- the simulator's own


def test_every_token_comes_to_an_end_with_one_charge_at_most(simulator: Simulator) -> None:
    for method, behaviour in TOKENS.items():
        key = a_key()
        expected = Status.DECLINED if behaviour.decline_code else Status.CAPTURED
        if behaviour.mishap is Mishap.LATE:
            expected = Status.PROCESSING
        assert _insist(simulator, key, method).status is expected, method
        charge = simulator.find(key=key)
        assert charge is not None, method
        assert charge.captured == (AMOUNT if expected is Status.CAPTURED else 0), method


def _insist(simulator: Simulator, key: str, method: str) -> Outcome:
    for _ in range(3):
        try:
            return simulator.confirm(opened(simulator, method, key=key))
        except ProviderError:
            continue
    raise AssertionError("no answer in three attempts")


def test_an_unknown_token_is_declined(simulator: Simulator) -> None:
    for method in ("", "4242", "pm_card_", "pm_sim_unheard_of", "ü" * 200):
        outcome = simulator.confirm(opened(simulator, method))
        assert outcome == Outcome(Status.DECLINED, "invalid_payment_method"), method


def test_a_request_that_was_never_seen_is_not_in_the_book(simulator: Simulator) -> None:
    key = a_key()
    with pytest.raises(ProviderTimeout):
        opened(simulator, "pm_sim_neverSeen", key=key)
    assert simulator.find(key=key) is None
    assert simulator.confirm(opened(simulator, "pm_sim_neverSeen", key=key)).status == "captured"


def test_a_lost_answer_has_charged_nonetheless(simulator: Simulator) -> None:
    reference = opened(simulator, "pm_sim_timeoutThenSuccess")
    with pytest.raises(ProviderTimeout):
        simulator.confirm(reference)
    assert found(simulator, reference).captured == AMOUNT


def test_a_late_success_takes_place_by_the_providers_clock(
    simulator: Simulator, provider_url: str
) -> None:
    reference = opened(simulator, "pm_sim_lateSuccess")
    with pytest.raises(ProviderTimeout):
        simulator.confirm(reference)
    assert simulator.confirm(reference) == Outcome(Status.PROCESSING)
    # The book shows it when its time has come, although nobody has asked.
    later = a_simulator(provider_url, clock_offset="10s")
    assert found(later, reference).captured == AMOUNT
    assert later.cancel(reference) == Outcome(Status.CAPTURED)


def test_a_simulated_timeout_takes_its_time_and_not_more(simulator: Simulator) -> None:
    waits: list[float] = []
    patient = Simulator(simulator._book, timeout_s=10, slow_s=20, late_s=1, sleep=waits.append)
    with pytest.raises(ProviderTimeout):
        patient.confirm(opened(patient, "pm_sim_timeoutThenSuccess"))
    with pytest.raises(ProviderTimeout):
        patient.confirm(opened(patient, "pm_sim_slow"))
    assert waits == [0.5, 10]


def test_a_book_that_does_not_answer_is_an_unknown_outcome(simulator: Simulator) -> None:
    lost = a_simulator("postgresql://nobody:secret@127.0.0.1:1/nothing")
    with pytest.raises(ProviderError) as caught:
        opened(lost)
    assert "secret" not in str(caught.value)
