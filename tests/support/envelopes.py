"""Envelopes as another service would have sent them."""

from datetime import UTC, datetime
from typing import Any

from ecom_common.ids import new_id
from ecom_contracts.envelope import Envelope
from ecom_contracts.messages import Message


def an_envelope(data: Message, **attributes: Any) -> Envelope[Message]:
    """With a fresh id, from now, as the first of its kind; `attributes` are others than these."""
    values: dict[str, Any] = {
        "id": new_id(),
        "source": "tests",
        "type": data.TYPE,
        "subject": data.key,
        "time": datetime.now(UTC),
        "sequence": 1,
        "data": data,
    }
    return Envelope(**(values | attributes))
