"""How the order service's processes are put together."""

from collections.abc import Callable

import pytest
from ecom_contracts.messages import MESSAGES
from order_service import app, worker
from order_service.consumers import TOPICS, handlers

from tests.support.orders import a_desk


def test_every_message_of_the_topics_it_reads_has_a_use_case() -> None:
    readable = {name for name, message in MESSAGES.items() if message.TOPIC in TOPICS}
    assert handlers(a_desk()).keys() == readable
    assert all("order_service" in topic.readers for topic in TOPICS)


@pytest.mark.parametrize("main", [app.main, worker.main], ids=["api", "worker"])
def test_a_process_without_settings_says_what_is_missing(
    main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DATABASE_URL", "JWT_JWKS", "KAFKA_BOOTSTRAP_SERVERS", "HTTP_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert main() == 2
    told = capsys.readouterr().err
    assert told.startswith("order_service: ")
    assert "DATABASE_URL" in told
