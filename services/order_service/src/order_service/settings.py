"""The order service's settings."""

from ecom_common.settings import ServiceSettings
from pydantic import Field


class Settings(ServiceSettings):
    """What the order service reads from its environment, beside what all services read."""

    order_deadline_s: int = Field(default=15 * 60, ge=1)
    """An order that is not confirmed by then is given up. Shorter than inventory's RESERVATION_TTL_S."""
    ask_again_after_s: float = Field(default=2.0, gt=0)
    """How long an answer may take before the sweeper asks again; doubled each time."""
    ask_again_at_most_s: float = Field(default=60.0, gt=0)
    max_asks: int = Field(default=30, ge=2)
    """An order that was asked for this often without an answer is flagged and left to an operator."""
    max_open_orders: int = Field(default=2_000, ge=1)
    """Flow control: beyond this many orders that are not final, new ones are answered 503. Some seconds' worth; also
    what is taken while the broker is away."""
