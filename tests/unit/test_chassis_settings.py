"""Settings: read from the environment, refused when unsafe, and never repeated in an error."""

import pytest
from ecom_common.database import sqlalchemy_url
from ecom_common.errors import ConfigurationError
from ecom_common.settings import KafkaSettings, ServiceSettings, load

SECRET = "hunter2-4111"
GOOD = {
    "ENVIRONMENT": "production",
    "DATABASE_URL": f"postgresql://app:{SECRET}@db:5432/orders",
    "JWT_JWKS": "/etc/jwks.json",
    "JWT_ISSUER": "https://issuer.example",
    "JWT_AUDIENCE": "ecom",
    "HTTP_PORT": "8001",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_complete_environment_is_read(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MAX_BATCH", "50")
    settings = load(ServiceSettings)
    assert settings.http_port == 8001
    assert settings.max_batch == 50
    assert settings.database_url.get_secret_value() == GOOD["DATABASE_URL"]


def test_production_is_the_default(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("ENVIRONMENT")
    assert load(ServiceSettings).environment == "production"


@pytest.mark.parametrize("name", ["DATABASE_URL", "JWT_JWKS", "JWT_ISSUER", "HTTP_PORT"])
def test_a_missing_variable_is_named(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.delenv(name)
    with pytest.raises(ConfigurationError, match=name):
        load(ServiceSettings)


def test_every_bad_variable_is_named_at_once_and_no_value_is(
    environment: pytest.MonkeyPatch,
) -> None:
    for name in ("ENVIRONMENT", "HTTP_PORT", "LOG_LEVEL", "MAX_BATCH"):
        environment.setenv(name, SECRET)
    with pytest.raises(ConfigurationError) as refused:
        load(ServiceSettings)
    told = str(refused.value)
    assert all(name in told for name in ("ENVIRONMENT", "HTTP_PORT", "LOG_LEVEL", "MAX_BATCH"))
    _tells_nothing(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://app:{SECRET}@db/orders",
        f"postgresql://app:x@db:{SECRET}/orders",  # a password with an unescaped @ and :
        SECRET,
        "",
    ],
)
def test_a_malformed_database_url_is_refused_without_repeating_it(
    environment: pytest.MonkeyPatch, url: str
) -> None:
    environment.setenv("DATABASE_URL", url)
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as refused:
        load(ServiceSettings)
    _tells_nothing(refused.value)
    with pytest.raises(ConfigurationError) as refused:
        sqlalchemy_url(url)
    _tells_nothing(refused.value)


@pytest.mark.parametrize("password", ["", "change-me", "CHANGEME", "postgres", "Password"])
def test_a_placeholder_password_is_refused_in_production_and_nowhere_else(
    environment: pytest.MonkeyPatch, password: str
) -> None:
    environment.setenv("DATABASE_URL", f"postgresql://app:{password}@db/orders")
    with pytest.raises(ConfigurationError, match="DATABASE_URL has no password or a placeholder"):
        load(ServiceSettings)
    environment.setenv("ENVIRONMENT", "development")
    assert load(ServiceSettings).environment == "development"


def test_secrets_do_not_show_when_settings_are_printed(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker:9092")
    environment.setenv("KAFKA_SASL_PASSWORD", SECRET)
    assert SECRET not in repr(load(ServiceSettings)) + str(load(KafkaSettings))


def test_variables_of_kafka_are_named_with_their_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker:9092")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "NONE")
    monkeypatch.setenv("KAFKA_REPLICATION_FACTOR", "0")
    with pytest.raises(ConfigurationError) as refused:
        load(KafkaSettings)
    assert "KAFKA_SECURITY_PROTOCOL: " in str(refused.value)
    assert "KAFKA_REPLICATION_FACTOR: " in str(refused.value)


def test_a_database_url_is_turned_into_one_for_psycopg2_with_its_options_and_odd_characters() -> (
    None
):
    url = sqlalchemy_url("postgresql://app:p%40ss%2Fw%3Ard%25@db:5433/orders?sslmode=require")
    assert url.drivername == "postgresql+psycopg2"
    assert url.password == "p@ss/w:rd%"
    assert dict(url.query) == {"sslmode": "require"}
    assert sqlalchemy_url("postgres://app@db/orders").drivername == "postgresql+psycopg2"


def _tells_nothing(error: BaseException | None) -> None:
    """Neither the error nor what it is chained to repeats the secret."""
    while error is not None:
        assert SECRET not in str(error)
        assert SECRET not in repr(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("name", "value"), [("CRASH_FOLDER", "/tmp/crash"), ("WITHOUT_SAFEGUARDS", "outbox,versions")]
)
def test_experiments_are_refused_in_production_and_nowhere_else(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        load(ServiceSettings)
    environment.setenv("ENVIRONMENT", "development")
    assert getattr(load(ServiceSettings), name.lower())


def test_only_safeguards_that_exist_can_be_left_out(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ENVIRONMENT", "development")
    environment.setenv("WITHOUT_SAFEGUARDS", "seat-belts")
    with pytest.raises(ConfigurationError, match=r"WITHOUT_SAFEGUARDS.*outbox"):
        load(ServiceSettings)
