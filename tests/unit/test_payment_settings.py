"""What the payment service refuses to start with."""

from collections.abc import Callable

import pytest
from ecom_common.errors import ConfigurationError
from ecom_common.settings import load
from payment_service import app, worker
from payment_service.settings import Settings

GOOD = {
    "ENVIRONMENT": "production",
    "DATABASE_URL": "postgresql://payment_service:s3cr3t@db/paymentdb",
    "PROVIDER_DATABASE_URL": "postgresql://provider_service:s3cr3t@db/providerdb",
    "JWT_JWKS": "/nowhere/jwks.json",
    "JWT_ISSUER": "issuer",
    "JWT_AUDIENCE": "ecom",
    "HTTP_PORT": "8003",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_(**changes: str | None) -> None:
        for name, value in (GOOD | changes).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return set_


def test_good_settings_are_read(environment: Callable[..., None]) -> None:
    environment()
    settings = load(Settings)
    assert (settings.provider_threads, settings.provider_timeout_s) == (16, 10)
    assert "s3cr3t" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROVIDER_DATABASE_URL", None),
        ("PROVIDER_DATABASE_URL", "postgresql://provider_service:change-me@db/providerdb"),
        ("PROVIDER_LEASE_S", "20"),
        ("PROVIDER_THREADS", "0"),
        ("PROVIDER_TIMEOUT_S", "never"),
    ],
)
def test_bad_settings_are_named(
    environment: Callable[..., None], name: str, value: str | None
) -> None:
    environment(**{name: value})
    with pytest.raises(ConfigurationError, match=name):
        load(Settings)


@pytest.mark.parametrize("main", [app.main, worker.main])
def test_a_process_without_its_settings_says_so_in_one_line(
    main: Callable[[], int], environment: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    environment(DATABASE_URL=None)
    assert main() == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert "DATABASE_URL" in line
