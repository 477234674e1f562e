"""What the payment service reads from its environment."""

from typing import Self

from ecom_common.settings import ServiceSettings, refuse_placeholder_password
from pydantic import Field, SecretStr, model_validator

CALLS_OF_A_JOB = 2
"""A job makes at most two calls: open, and then confirm, cancel or refund."""


class Settings(ServiceSettings):
    """The shared settings, and how the provider is asked."""

    provider_database_url: SecretStr
    """postgresql:// URL of the simulator's own book, as the role `provider_service`."""
    provider_timeout_s: float = Field(default=10, ge=0.05, le=60)
    """Longest that one call of the provider may take; after that its outcome is unknown."""
    provider_threads: int = Field(default=16, ge=1, le=64)
    """Calls of the provider at the same time, in each worker: they only wait."""
    provider_lease_s: float = Field(default=60, ge=0.2, le=3600)
    """How long a claimed job is left to its worker before another may ask again."""
    provider_retry_first_s: float = Field(default=1, ge=0.01, le=60)
    """An unknown outcome is asked for again after this; doubled each time up to the most."""
    provider_retry_most_s: float = Field(default=60, ge=0.01, le=3600)
    simulator_slow_s: float = Field(default=2, ge=0, le=60)
    """How long the simulator takes over a payment with `pm_sim_slow`."""
    simulator_late_s: float = Field(default=3, ge=0, le=3600)
    """How much later the simulator captures a payment with `pm_sim_lateSuccess`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.environment == "production":
            refuse_placeholder_password("PROVIDER_DATABASE_URL", self.provider_database_url)
        if self.provider_lease_s <= CALLS_OF_A_JOB * self.provider_timeout_s:
            raise ValueError(
                f"PROVIDER_LEASE_S must be more than {CALLS_OF_A_JOB} times PROVIDER_TIMEOUT_S: "
                "a job that still runs would be given to another worker"
            )
        return self
