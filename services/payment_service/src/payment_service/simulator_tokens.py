"""The payment methods that the simulated provider understands: Stripe's test tokens, and tokens that fail.

Source of the first: https://docs.stripe.com/testing, "PaymentMethods" of each table of cards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Mishap(StrEnum):
    """What goes wrong, and how often."""

    NEVER_SEEN = "never_seen"
    """The first open is lost on its way: a time-out, and nothing is recorded."""
    ANSWER_LOST = "answer_lost"
    """The first confirm is decided, but its answer is lost: a time-out."""
    LATE = "late"
    """The first confirm times out; the money moves some seconds later, unless cancelled before."""
    ERROR = "error"
    """The first confirm fails with an error of the provider's, and does nothing."""
    SLOW = "slow"
    """Confirming takes seconds."""
    REFUND_FAILS_ONCE = "refund_fails_once"
    REFUND_FAILS = "refund_fails"
    REFUND_ANSWER_LOST = "refund_answer_lost"
    """Each refund is made, but the first answer to its key is lost: a time-out."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the provider treats a payment method: declined with a code, or captured."""

    decline_code: str | None = None
    mishap: Mishap | None = None


CAPTURED: Final = Behaviour()
UNKNOWN_TOKEN: Final = Behaviour("invalid_payment_method")

_CARDS: Final = (
    "visa", "visa_debit", "mastercard", "mastercard_debit", "mastercard_prepaid", "amex", "discover",
    "diners", "jcb", "unionpay", "us", "ca", "gb", "fr", "de", "it", "es",
)  # fmt: skip

_DECLINES: Final = {
    "chargeDeclined": "generic_decline",
    "chargeDeclinedInsufficientFunds": "insufficient_funds",
    "chargeDeclinedLostCard": "lost_card",
    "chargeDeclinedStolenCard": "stolen_card",
    "chargeDeclinedExpiredCard": "expired_card",
    "chargeDeclinedIncorrectCvc": "incorrect_cvc",
    "chargeDeclinedProcessingError": "processing_error",
    "chargeDeclinedVelocityLimitExceeded": "card_velocity_exceeded",
    "chargeCustomerFail": "generic_decline",
}

TOKENS: Final[Mapping[str, Behaviour]] = {
    **{f"pm_card_{card}": CAPTURED for card in _CARDS},
    **{f"pm_card_{name}": Behaviour(code) for name, code in _DECLINES.items()},
    # Stripe spells some of them with the brand of the card.
    **{f"pm_card_visa_{name}": Behaviour(code) for name, code in _DECLINES.items()},
    "pm_sim_timeoutThenSuccess": Behaviour(mishap=Mishap.ANSWER_LOST),
    "pm_sim_timeoutThenDecline": Behaviour("generic_decline", Mishap.ANSWER_LOST),
    "pm_sim_neverSeen": Behaviour(mishap=Mishap.NEVER_SEEN),
    "pm_sim_lateSuccess": Behaviour(mishap=Mishap.LATE),
    "pm_sim_error": Behaviour(mishap=Mishap.ERROR),
    "pm_sim_slow": Behaviour(mishap=Mishap.SLOW),
    "pm_sim_refundFailsOnce": Behaviour(mishap=Mishap.REFUND_FAILS_ONCE),
    "pm_sim_refundFails": Behaviour(mishap=Mishap.REFUND_FAILS),
    "pm_sim_refundTimeoutThenSuccess": Behaviour(mishap=Mishap.REFUND_ANSWER_LOST),
}


def behaviour_of(method: str) -> Behaviour:
    """How a token is treated; one that nobody knows is declined, as an invalid one would be."""
    return TOKENS.get(method, UNKNOWN_TOKEN)
