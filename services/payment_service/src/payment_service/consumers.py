"""The door for messages: which use case answers which type."""

from collections.abc import Callable, Sequence
from typing import Final

from ecom_common.durable import when_durable
from ecom_common.messages import Handlers, Received
from ecom_contracts.messages import PaymentCancel, PaymentCharge
from ecom_contracts.topics import PAYMENT_COMMANDS
from sqlalchemy.orm import Session

from payment_service import service

TOPICS: Final = (PAYMENT_COMMANDS,)


def handlers(wake_jobs: Callable[[], None]) -> Handlers:
    """What each type of message leads to; `wake_jobs` is called once their transaction has committed."""

    def apply(session: Session, messages: Sequence[Received]) -> None:
        # Not a trigger of the database: NOTIFY would serialise the commits of everybody.
        when_durable(session, wake_jobs)
        service.apply_payment_commands(session, messages)

    # One function for both, so that a mixed batch stays one batch.
    return {
        PaymentCharge.TYPE: apply,
        PaymentCancel.TYPE: apply,
    }
