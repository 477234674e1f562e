"""What every service reads from its environment, and the refusal to start with unsafe values.

Environment only: no files, no flags, no defaults for what differs between installations. Each service
extends `ServiceSettings` with its own fields in its own `settings.py`.
"""

from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from ecom_common import crash_points
from ecom_common.database import sqlalchemy_url
from ecom_common.errors import ConfigurationError
from ecom_common.safeguards import SAFEGUARDS, switch_off

S = TypeVar("S", bound=BaseSettings)

# Passwords that stand in examples; a production start with one of them is a mistake.
_PLACEHOLDERS = frozenset(
    {"", "change-me", "changeme", "password", "postgres", "secret", "example"}
)


class KafkaSettings(BaseSettings):
    """How to reach the broker; enough for a managed one (TLS, SASL)."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix="kafka_")

    bootstrap_servers: str = Field(min_length=1)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_location: str | None = None
    replication_factor: int = Field(default=1, ge=1, le=9)
    partitions: int | None = Field(default=None, ge=1, le=256)
    """Overrides the number of partitions of every topic; None keeps what the topics say."""


class ServiceSettings(BaseSettings):
    """Settings that all three services share."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    environment: Literal["development", "production"] = "production"
    database_url: SecretStr
    """postgresql://role:password@host:port/database?sslmode=…, the role without DDL rights."""
    database_pool_size: int = Field(default=8, ge=1, le=64)
    jwt_jwks: str = Field(min_length=1)
    """A JWKS: the path of a file, or an https URL."""
    jwt_issuer: str = Field(min_length=1)
    jwt_audience: str = Field(min_length=1)
    http_host: str = "127.0.0.1"
    http_port: int = Field(ge=1, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_batch: int = Field(default=200, ge=1, le=1000)
    """Most HTTP commands, or messages, in one transaction."""
    inbox_retention_hours: int = Field(default=7 * 24, ge=1)
    """How long message ids are remembered; the broker keeps commands and events as long."""
    idempotency_retention_hours: int = Field(default=7 * 24, ge=72)
    crash_folder: Path | None = None
    """Development only: the process dies at the places for which there is a file; see `crash_points`."""
    without_safeguards: str = ""
    """Development only: names of `safeguards`, with commas between."""

    @field_validator("without_safeguards")
    @classmethod
    def _refuse_unknown_safeguards(cls, value: str) -> str:
        if not SAFEGUARDS.keys() >= set(filter(None, value.split(","))):
            raise ValueError(f"there are only {', '.join(SAFEGUARDS)}")
        return value

    @model_validator(mode="after")
    def _refuse_unsafe_production(self) -> Self:
        if self.environment == "production":
            refuse_placeholder_password("DATABASE_URL", self.database_url)
            if self.crash_folder is not None or self.without_safeguards:
                raise ValueError("CRASH_FOLDER and WITHOUT_SAFEGUARDS are for development only")
        return self


def refuse_placeholder_password(name: str, url: SecretStr) -> None:
    """Raise ValueError when the URL's password is one that stands in examples."""
    try:
        password = sqlalchemy_url(url.get_secret_value()).password or ""
    except ConfigurationError:
        raise ValueError(f"{name} is no postgresql:// URL; are odd characters escaped?") from None
    if password.lower() in _PLACEHOLDERS:
        raise ValueError(f"{name} has no password or a placeholder: set a real one")


def prepare_for_experiments(settings: ServiceSettings) -> None:
    """Arm the crash points and leave out the safeguards that the settings name. Each process does it once."""
    switch_off(filter(None, settings.without_safeguards.split(",")))
    if settings.crash_folder is not None:
        crash_points.arm(settings.crash_folder)


def load(kind: type[S]) -> S:
    """Read the environment, or raise ConfigurationError that names each bad variable, never a value."""
    try:
        return kind()
    except ValidationError as error:
        problems = "; ".join(
            f"{_variable(kind, item['loc'])}{item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        )
    except SettingsError as error:
        problems = str(error)
    # Outside the except blocks: inside, Python would attach the library's error, and its input, to ours.
    raise ConfigurationError(f"the environment is not usable: {problems}")


def _variable(kind: type[BaseSettings], place: tuple[int | str, ...]) -> str:
    name = ".".join(map(str, place))
    return f"{kind.model_config.get('env_prefix', '')}{name}: ".upper() if name else ""
