"""What we ask of a payment provider, and what it may answer.

A provider moves money elsewhere, by its own clock, and its answer can get lost. So every call can be
repeated: charges and refunds have a key of ours, and one key is one charge, however often it is sent.

    ProviderError          no usable answer: what happened is unknown, so ask again with the same key
    ├── ProviderTimeout    it did not answer in time
    └── KeyReused          the key was used with another content: a fault of ours, and nothing was done

An answer is never an exception: a decline and a failed refund are outcomes.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ecom_common.errors import EcomError


class ProviderError(EcomError):
    """There is no usable answer: what happened is unknown."""


class ProviderTimeout(ProviderError):
    """The provider did not answer in time. Never to be read as a decline."""


class KeyReused(ProviderError):
    """The key belongs to a charge or refund of another content."""


class Status(StrEnum):
    """Where a charge, or a refund, stands at the provider."""

    OPEN = "open"
    """Created; no money has moved and none will without a confirm."""
    PROCESSING = "processing"
    """Under way and not decided: ask again."""
    CAPTURED = "captured"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    """Closed: no confirm can succeed any more."""
    REFUNDED = "refunded"
    REFUND_FAILED = "refund_failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came back with; `code` is the provider's reason, when it declined or failed."""

    status: Status
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCharge:
    """A charge as the provider's book has it; amounts in minor units."""

    reference: str
    key: str
    currency: str
    amount: int
    captured: int
    refunded: int
    status: Status


class Provider(Protocol):
    """A payment provider. Thread-safe; every call returns or raises within its time-out.

    Any call raises ProviderError or ProviderTimeout when its outcome is unknown.
    """

    def open(self, key: str, *, amount: int, currency: str, method: str) -> str:
        """Create a charge without moving money; its reference, the same for the same key.

        Raises KeyReused when the key has another amount or currency.
        """

    def confirm(self, reference: str) -> Outcome:
        """Move the money, once: captured, declined, processing, or cancelled if it was."""

    def cancel(self, reference: str) -> Outcome:
        """A fence: cancelled means that no confirm, not even one under way, can succeed any more.

        A charge that was captured or declined before stays so, and that is the answer.
        """

    def refund(self, reference: str, key: str, amount: int) -> Outcome:
        """Give captured money back, once for each key: refunded, or refund_failed for good.

        The same key always gets the same answer. Raises KeyReused when it has another content.
        """

    def find(
        self, *, reference: str | None = None, key: str | None = None
    ) -> ProviderCharge | None:
        """The charge with this reference or key, if the provider knows it."""
