"""What the inventory service reads from its environment."""

from ecom_common.settings import ServiceSettings
from pydantic import Field


class Settings(ServiceSettings):
    """The shared settings, and the inventory's own."""

    reservation_ttl_s: int = Field(default=20 * 60, ge=1, le=30 * 24 * 3600)
    """How long a reservation is held before it releases itself. The default is longer than an order's
    deadline of 15 minutes, so that normally the order service releases first."""
