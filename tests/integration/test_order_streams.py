"""Following an order: event streams and waits see what any process does to it."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from ecom_common.http import Draining
from ecom_common.ids import new_id
from ecom_common.reading import Reader
from ecom_local.instance import Instance
from order_service.watch import Watch

from tests.support.databases import Databases
from tests.support.orders import Api, a_body, an_api, database_away, payment, stock
from tests.support.shop import until

Event = dict[str, str]


@pytest.fixture(scope="module")
def api(instance: Instance, databases: Databases) -> Iterator[Api]:
    with an_api(instance, databases) as running:
        yield running


@pytest.fixture
def order_id(api: Api) -> UUID:
    return UUID(api.place()["id"])


def events_of(answer: httpx.Response) -> Iterator[Event]:
    """The events of a stream, as they come: id, event, data."""
    event: Event = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            yield event
            event = {}


@contextmanager
def following(api: Api, order_id: UUID, last: int | None = None) -> Iterator[Iterator[Event]]:
    headers = api.auth() | ({} if last is None else {"Last-Event-ID": str(last)})
    with api.http.stream("GET", f"/v1/orders/{order_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield events_of(answer)


def test_a_stream_tells_what_another_process_does_while_it_does_it(
    api: Api, order_id: UUID
) -> None:
    def next_one(events: Iterator[Event]) -> tuple[str, str]:
        event = next(events)
        return event["id"], event["event"]

    with following(api, order_id) as events:
        assert next_one(events) == ("1", "placed")
        api.store.learn(stock(order_id, "held", 1))
        assert next_one(events) == ("2", "stock_held")
        api.store.learn(payment(order_id, "processing", 1), payment(order_id, "captured", 2))
        assert next_one(events) == ("3", "payment_processing")
        assert next_one(events) == ("4", "payment_captured")
        api.store.learn(stock(order_id, "committed", 2))
        last = next(events)
        assert json.loads(last["data"])["status"] == "confirmed"
        assert list(events) == []  # it is closed


def test_a_stream_outlives_a_database_that_is_away_for_a_moment(
    instance: Instance, databases: Databases
) -> None:
    with an_api(instance, databases) as api:
        order_id = UUID(api.place()["id"])
        with following(api, order_id) as events:
            next(events)
            with database_away(instance, api):
                assert api.get("/v1/orders").status_code == 503
            until(lambda: api.get("/v1/orders").status_code == 200, timeout_s=5)
            api.store.learn(stock(order_id, "refused", 1))
            assert [event["event"] for event in events] == ["stock_refused"]


def test_an_event_is_the_timelines_entry(api: Api, order_id: UUID) -> None:
    api.store.learn(stock(order_id, "refused", 1))
    with following(api, order_id) as events:
        told = [json.loads(event["data"]) for event in events]
    assert told == api.get(f"/v1/orders/{order_id}/timeline").json()["items"]


def test_a_reconnect_goes_on_after_the_last_event(api: Api, order_id: UUID) -> None:
    api.store.confirm(order_id)
    with following(api, order_id, last=3) as events:
        assert [event["id"] for event in events] == ["4", "5"]


def test_a_reconnect_after_the_end_is_told_that_nothing_more_comes(
    api: Api, order_id: UUID
) -> None:
    api.store.confirm(order_id)
    path = f"/v1/orders/{order_id}/events"
    for last in (5, 6):
        answer = api.get(path, headers={"Last-Event-ID": str(last)})
        assert (answer.status_code, answer.content) == (204, b"")


def test_a_confirmed_order_that_is_cancelled_has_more_to_tell(api: Api, order_id: UUID) -> None:
    api.store.confirm(order_id)
    api.cancel(str(order_id))
    with following(api, order_id, last=5) as events:
        assert next(events)["event"] == "cancel_requested"
        api.store.learn(stock(order_id, "restocked", 3), payment(order_id, "refunded", 4))
        assert [event["id"] for event in events] == ["7", "8"]


def test_a_stream_of_an_order_that_waits_stays_open(api: Api, order_id: UUID) -> None:
    with following(api, order_id, last=1) as events:
        api.store.accepted(order_id)
        assert next(events)["id"] == "2"


@pytest.mark.parametrize("last", ["x", "-1", "1.0", "9" * 10, "²"])
def test_an_event_id_that_was_never_given_is_refused(api: Api, order_id: UUID, last: str) -> None:
    given = {name.encode(): value.encode() for name, value in api.auth().items()}
    headers = given | {b"Last-Event-ID": last.encode()}
    answer = api.http.get(f"/v1/orders/{order_id}/events", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


def test_many_follow_one_order_and_one_who_leaves_disturbs_nobody(api: Api, order_id: UUID) -> None:
    def follow(_: int) -> list[str]:
        with following(api, order_id) as events:
            return [event["id"] for event in events]

    with ThreadPoolExecutor(8) as threads:
        with following(api, order_id) as events:
            assert next(events)["id"] == "1"
            followers = [threads.submit(follow, number) for number in range(8)]
        api.store.confirm(order_id)
        assert [f.result(10) for f in followers] == [["1", "2", "3", "4", "5"]] * 8


# ---- Prefer: wait


@contextmanager
def placing(
    api: Api, prefer: str, **fields: Any
) -> Iterator["tuple[UUID, Future[httpx.Response]]"]:
    """An order that is there while its client still waits for the answer."""
    customer = f"customer-{new_id()}"
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(
            api.post, a_body(**fields), customer=customer, headers={"Prefer": prefer}
        )
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = api.get("/v1/orders", customer=customer).json()["items"]
            return bool(found)

        until(is_there, timeout_s=10)
        assert not answer.done()
        yield UUID(found[0]["id"]), answer


Ending = Callable[[Api, UUID], None]


def _confirm(api: Api, order_id: UUID) -> None:
    api.store.confirm(order_id)


def _refuse(api: Api, order_id: UUID) -> None:
    api.store.learn(stock(order_id, "refused", 1))


def _cancel(api: Api, order_id: UUID) -> None:
    api.store.accepted(order_id, customer=None)
    api.store.learn(stock(order_id, "released", 1))


@pytest.mark.parametrize(
    ("end", "status"), [(_confirm, "confirmed"), (_refuse, "rejected"), (_cancel, "cancelled")]
)
def test_who_waits_is_answered_with_the_final_order(api: Api, end: Ending, status: str) -> None:
    with placing(api, "wait=30") as (order_id, waiting):
        end(api, order_id)
        answer = waiting.result(10)
    assert (answer.status_code, answer.json()["status"]) == (201, status)
    assert answer.headers["Preference-Applied"] == "wait=30"
    assert answer.headers["ETag"] == f'"{answer.json()["version"]}"'


def test_who_waits_is_answered_in_time_also_when_nothing_happens(api: Api) -> None:
    begin = time.monotonic()
    answer = api.post(a_body(), headers={"Prefer": "wait=1"})
    assert 1 <= time.monotonic() - begin < 5
    assert (answer.status_code, answer.json()["status"]) == (201, "pending")


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=0", "wait=0"),
        ("respond-async, wait=0", "wait=0"),
        ('Wait="0"', "wait=0"),
        ("respond-async", None),
        ("wait=soon", None),
        ("wait=-1", None),
        ("await=1", None),
        ("", None),
    ],
)
def test_a_preference_that_can_not_be_read_is_ignored(
    api: Api, prefer: str, applied: str | None
) -> None:
    answer = api.post(a_body(), headers={"Prefer": prefer})
    assert answer.status_code == 201
    assert answer.headers.get("Preference-Applied") == applied


def test_nobody_waits_longer_than_half_a_minute(api: Api) -> None:
    with placing(api, "wait=86400") as (order_id, waiting):
        _refuse(api, order_id)
        assert waiting.result(10).headers["Preference-Applied"] == "wait=30"


def test_a_replay_of_what_is_final_waits_for_nothing(api: Api) -> None:
    order_id = UUID(api.post(a_body(), key="final").json()["id"])
    api.store.confirm(order_id)
    answer = api.post(a_body(), key="final", headers={"Prefer": "wait=30"})
    assert (answer.json()["status"], answer.headers["Idempotency-Replayed"]) == (
        "confirmed",
        "true",
    )


# ---- the watch itself


def test_a_watch_wakes_each_for_the_order_and_version_they_wait_for(
    api: Api, order_id: UUID
) -> None:
    other = UUID(api.place()["id"])

    async def scenario() -> list[bool]:
        reader = Reader(api.store.sessions, threads=1)
        watch = Watch(reader, Draining())
        waits = [
            watch.changed(order_id, since=1, timeout_s=10),
            watch.changed(order_id, since=2, timeout_s=0.3),
            watch.changed(other, since=1, timeout_s=0.3),
            watch.changed(new_id(), since=0, timeout_s=0.3),
            watch.changed(other, since=0, timeout_s=10),
        ]
        waiting = asyncio.gather(*waits)
        await asyncio.to_thread(api.store.learn, stock(order_id, "held", 1))
        results = await waiting
        reader.close()
        return results

    assert asyncio.run(scenario()) == [True, False, False, False, True]


def test_a_watch_lets_go_of_everybody_when_the_process_is_about_to_stop(
    api: Api, order_id: UUID
) -> None:
    async def scenario() -> tuple[list[bool], bool]:
        reader = Reader(api.store.sessions, threads=1)
        draining = Draining()
        watch = Watch(reader, draining)
        waiting = [
            asyncio.create_task(watch.changed(order_id, since=1, timeout_s=60)) for _ in range(3)
        ]
        asyncio.get_running_loop().call_soon(draining.start)
        woken = await asyncio.wait_for(asyncio.gather(*waiting), 5)
        late = await watch.changed(order_id, since=0, timeout_s=60)
        reader.close()
        return list(woken), late

    assert asyncio.run(scenario()) == ([False, False, False], False)
