"""The door for messages: which use case answers which type."""

from collections.abc import Sequence
from typing import Final

from ecom_common.durable import when_durable, when_undone
from ecom_common.messages import Handlers, Received
from ecom_contracts.messages import PaymentCancel, PaymentCharge
from ecom_contracts.topics import PAYMENT_COMMANDS
from sqlalchemy.orm import Session

from payment_service import service
from payment_service.jobs import ProviderJobs

TOPICS: Final = (PAYMENT_COMMANDS,)


def handlers(jobs: ProviderJobs) -> Handlers:
    """What each type of message leads to; `jobs` ask the provider for what their transaction has made."""

    def apply(session: Session, messages: Sequence[Received]) -> None:
        hand = jobs.open_hand()
        leased = service.apply_payment_commands(session, messages, most=hand.room, lease=hand.lease)
        # Not a trigger of the database: NOTIFY would serialise the commits of everybody.
        when_durable(session, lambda: jobs.take(leased, hand))
        when_undone(session, lambda: jobs.give_back(leased))

    # One function for both, so that a mixed batch stays one batch.
    return {
        PaymentCharge.TYPE: apply,
        PaymentCancel.TYPE: apply,
    }
