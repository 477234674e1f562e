"""The api's process: it stops in an orderly way, and nobody who waits holds it up."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from ecom_local.ports import Ports

from tests.support.processes import Child, a_child
from tests.support.tokens import an_issuer
from tests.support.waiting import eventually


@contextmanager
def an_api(folder: Path) -> Iterator[tuple[Child, httpx.Client]]:
    port = Ports.free().kafka
    issuer = an_issuer(folder)
    with (
        a_child("tests.support.small_app", str(port), str(issuer.jwks)) as child,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=40) as client,
    ):
        child.says("opened")
        eventually(lambda: _answers(client))
        yield child, client


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_long_waits_at_once_and_answers_what_has_begun(
    tmp_path: Path, number: signal.Signals
) -> None:
    with an_api(tmp_path) as (child, client), ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(client.get, "/v1/wait")
        child.says("waiting")
        working = threads.submit(client.get, "/v1/slow")
        child.says("waiting")
        began = time.monotonic()
        child.send(number)
        assert waiting.result(10).json() == {"drained": True}
        assert working.result(10).json() == {"done": True}
        child.wait(20)
        assert time.monotonic() - began < 10
        child.says("closed")


def test_an_idle_connection_does_not_hold_the_process_up(tmp_path: Path) -> None:
    with an_api(tmp_path) as (child, client):
        client.get("/health/live")  # the connection stays open
        began = time.monotonic()
        child.send(signal.SIGTERM)
        child.wait(20)
        assert time.monotonic() - began < 5


def test_the_log_of_a_process_is_json_without_paths_or_queries(tmp_path: Path) -> None:
    with an_api(tmp_path) as (child, client):
        client.get("/v1/4111111111111111?card=4111111111111111")
        client.post("/v1/bug", json="4111111111111111")
        child.says("unhandled: ValueError")
        child.send(signal.SIGTERM)
        child.wait(20)
        child.says("closed")
    lines = [line for line in child.lines if line]
    assert all(line.startswith("{") and '"service":"teas"' in line for line in lines)
    assert "4111" not in child.output
    assert "/v1/4" not in child.output


def test_a_process_whose_end_waits_for_a_call_that_hangs_ends_all_the_same(tmp_path: Path) -> None:
    with an_api(tmp_path) as (child, client):
        client.get("/v1/hang")
        began = time.monotonic()
        child.send(signal.SIGTERM)
        assert child.wait(30) == 1
        assert time.monotonic() - began < 20
        child.says("a call hangs")
