"""Event streams and waits: fed by what other processes do, and over at once when a process stops."""

import json
import os
import signal
import threading
import time
from typing import Any

import httpx
from ecom_local.instance import Instance

from tests.support.shop import Shop, until


def _events(lines: "list[str]") -> list[dict[str, Any]]:
    """The events of a stream, as id, event and data."""
    blocks = "\n".join(lines).split("\n\n")
    parsed = [
        dict(line.split(": ", 1) for line in b.splitlines() if ": " in line and line[0] != ":")
        for b in blocks
    ]
    return [event for event in parsed if event]


def test_a_stream_tells_every_change_and_closes_at_the_end(shop: Shop) -> None:
    sku = shop.item(stock=1)
    order = shop.place({sku: 1})
    path = shop.url("order", f"/v1/orders/{order['id']}/events")
    with shop.http.stream("GET", path, headers=shop.auth("alice")) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = _events(list(stream.iter_lines()))

    assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))
    assert json.loads(events[-1]["data"])["status"] == "confirmed"
    last = {"Last-Event-ID": events[-1]["id"]}
    assert shop.http.get(path, headers=shop.auth("alice") | last).status_code == 204
    with shop.http.stream(
        "GET", path, headers=shop.auth("alice") | {"Last-Event-ID": "2"}
    ) as stream:
        rest = _events(list(stream.iter_lines()))
    assert [event["id"] for event in rest] == [event["id"] for event in events[2:]]


def test_waits_and_streams_end_at_once_when_the_process_is_told_to_stop(
    shop: Shop, instance: Instance
) -> None:
    sku = shop.item(stock=2)
    # Nobody reserves anything: what is waited for does not come.
    instance.stop("inventory-worker")
    try:
        _waits_end_with_the_process(shop, instance, sku)
    finally:
        instance.start("inventory-worker")


def _waits_end_with_the_process(shop: Shop, instance: Instance, sku: str) -> None:
    order = shop.place({sku: 1})
    statuses: list[int | str] = []
    begun = threading.Event()

    def follow() -> None:
        path = shop.url("order", f"/v1/orders/{order['id']}/events")
        with httpx.stream("GET", path, headers=shop.auth("alice"), timeout=30) as stream:
            for _ in stream.iter_lines():
                begun.set()
        statuses.append("stream ended")

    def wait() -> None:
        statuses.append(shop.post({sku: 1}, prefer="wait=30").status_code)

    threads = [threading.Thread(target=job) for job in (follow, wait)]
    for thread in threads:
        thread.start()
    try:
        assert begun.wait(10)
        until(lambda: _newest(shop) != order["id"], timeout_s=10)
        pid = instance.pid("order-api")
        assert pid is not None
        begin = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        for thread in threads:
            thread.join(20)
        took_s = time.monotonic() - begin
    finally:
        # The supervisor brings it back.
        until(lambda: instance.problem("order-api") is None, timeout_s=30)
    assert sorted(map(str, statuses)) == ["201", "stream ended"]
    assert took_s < 10
    assert instance.pid("order-api") != pid


def _newest(shop: Shop) -> str:
    """The customer's newest order: the one that is waited for, once it is placed."""
    answer = shop.http.get(shop.url("order", "/v1/orders?limit=1"), headers=shop.auth("alice"))
    return str(answer.json()["items"][0]["id"])
