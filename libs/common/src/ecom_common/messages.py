"""What travels through a consumer: a message as it was received, and the shape of its handlers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecom_contracts.envelope import Envelope
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded message and where it stood: the cause that a timeline names."""

    envelope: Envelope[Any]
    topic: str
    partition: int
    offset: int


Handler = Callable[[Session, Sequence[Received]], None]
"""Applies messages in order inside the caller's transaction; raises to have them replayed singly."""

Handlers = Mapping[str, Handler]
"""Message type → handler. A type that is not in it is acknowledged and counted."""
