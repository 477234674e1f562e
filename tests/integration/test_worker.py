"""The worker's loop: goes on whatever fails, sweeps when it is time, and stops in an orderly way."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import Producer
from ecom_common import outbox, probe
from ecom_common.consumer import Consumer
from ecom_common.errors import DependencyDown
from ecom_common.ids import new_id
from ecom_common.outbox import Outgoing
from ecom_common.relay import Relay, make_relay_engine
from ecom_common.service_worker import PRUNE_AT_MOST, PRUNE_PAUSE_S, housekeeping
from ecom_common.worker import LIVE_WITHIN_S, PREPARE_EVERY_S, Sweep, Worker
from ecom_local.instance import Instance
from ecom_local.ports import Ports
from sqlalchemy import text
from sqlalchemy.orm import Session

from tests.support.broker import Broker
from tests.support.chassis import Database, a_message
from tests.support.processes import Child, a_child, stopped
from tests.support.small_app import app_settings
from tests.support.tokens import AUDIENCE, ISSUER
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def broker(instance: Instance) -> Broker:
    return Broker.of(instance)


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class QuietKafka:
    """A broker's client to which nothing ever comes, or whose every poll fails."""

    broken: bool = False
    closed: bool = False
    calls: list[str] = field(default_factory=list)

    def subscribe(self, *_: Any, **__: Any) -> None: ...

    def poll(self, _: float) -> None:
        self.calls.append("poll")
        if self.broken:
            raise RuntimeError("the client is broken")

    def assignment(self) -> list[Any]:
        return []

    def position(self, _: list[Any]) -> list[Any]:
        return []

    def close(self) -> None:
        self.closed = True


def no_producer() -> Producer:
    raise AssertionError("nothing is published in these tests")


@contextmanager
def a_worker(
    database: Database, kafka: QuietKafka, clock: Clock, *sweeps: Sweep, **more: Any
) -> Iterator[Worker]:
    engine = make_relay_engine(database.url, application_name="relay")
    relay = Relay(engine, no_producer)
    worker = Worker(
        sessions=database.sessions,
        consumer=Consumer(
            cast(KafkaConsumer, kafka),
            database.sessions,
            {},
            topics=["t"],
            dead_letter_topic="dead",
            max_batch=10,
        ),
        relay=relay,
        sweeps=sweeps,
        clock=clock,
        **more,
    )
    worker.stop()  # no pauses after failures; the tests call run_once themselves
    try:
        yield worker
    finally:
        relay.close()
        engine.dispose()


def a_sweep(name: str, every_s: float, run: Callable[[Session], int], **more: Any) -> Sweep:
    return Sweep(name, every_s, run, **more)


def counted(runs: list[float], clock: Clock) -> Callable[[Session], int]:
    """A sweep's work: look at the database, and note when."""

    def run(session: Session) -> int:
        session.execute(text("SELECT 1"))
        runs.append(clock.now)
        return 0

    return run


def relay_locks(database: Database) -> list[int]:
    return database.rows(
        "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
        "WHERE l.locktype = 'advisory' AND d.datname = current_database()"
    )


def test_the_outbox_is_read_when_this_process_has_written_to_it_and_else_now_and_then(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    found = [0]
    rounds: list[float] = []

    def run_once(_: Relay) -> int:
        rounds.append(clock.now)
        return found[0]

    monkeypatch.setattr(Relay, "run_once", run_once)
    outbox.written.clear()
    with a_worker(database, QuietKafka(), clock, outbox_poll_s=5.0) as worker:
        worker.run_once()
        worker.run_once()
        assert rounds == [1_000.0], "nothing was written here"
        with database.sessions.begin() as session:
            outbox.publish(session, [Outgoing("t", "k", b"1")])
            worker.run_once()
            assert len(rounds) == 1, "nor is it before the commit"
        worker.run_once()
        worker.run_once()
        assert len(rounds) == 2
        clock.now += 5.0
        found[0] = 3
        worker.run_once()
        worker.run_once()
        assert len(rounds) == 4, "there may be more, and what was published is to be forgotten"


def test_a_sweep_runs_at_once_and_then_when_its_time_has_passed(database: Database) -> None:
    clock = Clock()
    runs: list[float] = []
    sweep = a_sweep("s", 10.0, counted(runs, clock))
    with a_worker(database, QuietKafka(), clock, sweep) as worker:
        worker.run_once()
        worker.run_once()
        assert runs == [1_000.0]
        clock.now += 7.9  # jittered by a fifth, either way
        worker.run_once()
        assert runs == [1_000.0]
        clock.now += 4.2
        worker.run_once()
        assert len(runs) == 2


def test_a_full_round_of_a_sweep_is_followed_by_the_next_at_once(database: Database) -> None:
    rounds = iter([5, 5, 3, 0])
    runs: list[int] = []

    def run(_: Session) -> int:
        runs.append(next(rounds))
        return runs[-1]

    with a_worker(database, QuietKafka(), Clock(), a_sweep("s", 60.0, run, full_round=5)) as worker:
        for _ in range(6):
            worker.run_once()
    assert runs == [5, 5, 3]


def test_old_message_ids_are_forgotten_as_fast_as_they_come(database: Database) -> None:
    old, count = "db_now() - interval '30 days'", 2 * PRUNE_AT_MOST + 1
    database.as_owner(
        f"INSERT INTO inbox SELECT gen_random_uuid(), {old} FROM generate_series(1, {count})"
    )
    clock = Clock()
    with a_worker(
        database, QuietKafka(), clock, *housekeeping(app_settings(jwks="none"))
    ) as worker:
        for _ in range(3):
            worker.run_once()
            clock.now += PRUNE_PAUSE_S
    assert database.rows("SELECT count(*) FROM inbox") == [0]


def test_what_a_sweep_does_is_committed_and_what_a_failing_one_does_is_not(
    database: Database,
) -> None:
    def good(session: Session) -> int:
        session.execute(text("INSERT INTO effects (note) VALUES ('good')"))
        return 1

    def bad(session: Session) -> int:
        session.execute(text("INSERT INTO effects (note) VALUES ('bad')"))
        raise ZeroDivisionError

    clock = Clock()
    sweeps = [a_sweep("bad", 1.0, bad), a_sweep("good", 1_000.0, good)]
    with a_worker(database, QuietKafka(), clock, *sweeps) as worker:
        for _ in range(3):
            worker.run_once()
            clock.now += 2
    assert database.rows("SELECT note FROM effects") == ["good"]


def test_no_step_that_fails_keeps_the_others_from_their_work(database: Database) -> None:
    runs: list[float] = []
    kafka = QuietKafka(broken=True)
    clock = Clock()
    sweep = a_sweep("s", 0.0, counted(runs, clock))
    with a_worker(database, kafka, clock, sweep) as worker:
        worker.run_once()
        database.shut()
        assert worker.run_once() == 0
        database.reopen()
        database.reconnect()
        worker.run_once()
    assert len(runs) == 2, "not while the database was away"
    assert len(kafka.calls) == 3


def test_nothing_is_consumed_before_the_preparations_have_succeeded_but_sweeps_run(
    database: Database,
) -> None:
    outcomes = iter([DependencyDown("no broker"), RuntimeError("a surprise"), None])
    runs: list[float] = []
    kafka, clock = QuietKafka(), Clock()

    def prepare() -> None:
        if (error := next(outcomes)) is not None:
            raise error

    sweep = a_sweep("s", 0.0, counted(runs, clock))
    with a_worker(database, kafka, clock, sweep, prepare=prepare) as worker:
        worker.run_once()
        worker.run_once()
        assert kafka.calls == []
        worker.run_once()
        worker.run_once()
    assert kafka.calls == ["poll", "poll"]
    assert len(runs) == 4


def test_preparations_are_made_again_now_and_then_and_hold_up_nothing_when_they_fail(
    database: Database,
) -> None:
    outcomes = iter([None, DependencyDown("no broker"), None])
    kafka, clock = QuietKafka(), Clock()
    made_at: list[float] = []

    def prepare() -> None:
        made_at.append(clock.now)
        if (error := next(outcomes)) is not None:
            raise error

    with a_worker(database, kafka, clock, prepare=prepare) as worker:
        for _ in range(5):
            worker.run_once()
            clock.now += PREPARE_EVERY_S / 2
    assert made_at == [1_000.0, 1_000.0 + PREPARE_EVERY_S, 1_000.0 + 2 * PREPARE_EVERY_S]
    assert kafka.calls == ["poll"] * 5


def test_a_loop_that_is_stuck_is_not_alive_and_one_that_is_only_slow_is(
    database: Database,
) -> None:
    clock = Clock()
    alive: list[bool] = []

    def slow(_: Session) -> int:
        clock.now += LIVE_WITHIN_S - 5
        worker.check_alive()
        alive.append(True)
        return 0

    sweeps = [a_sweep(name, 0.0, slow) for name in ("a", "b", "c")]
    with a_worker(database, QuietKafka(), clock, *sweeps) as worker:
        worker.check_alive()
        worker.run_once()
        assert len(alive) == 3, "a round of many slow steps"
        clock.now += LIVE_WITHIN_S + 1
        with pytest.raises(DependencyDown, match="not moved"):
            worker.check_alive()


def test_run_stops_side_jobs_leaves_the_group_and_gives_up_the_lock(database: Database) -> None:
    order: list[str] = []

    class Job:
        def start(self) -> None:
            order.append("start")

        def stop(self, timeout_s: float) -> None:
            assert timeout_s > 0
            order.append("stop")

    kafka = QuietKafka()
    with a_worker(database, kafka, Clock(), side_jobs=[Job()]) as worker:
        worker.run_once()
        worker.run()
    assert order == ["start", "stop"]
    assert kafka.closed
    assert relay_locks(database) == []


# ---- as a process


@contextmanager
def a_worker_process(
    database: Database, bootstrap: str, topic: str, answers: str
) -> Iterator[tuple[Child, httpx.Client]]:
    port = Ports.free().kafka
    environment = {
        "ENVIRONMENT": "development",
        "DATABASE_URL": database.url,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "JWT_JWKS": "unused",
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": AUDIENCE,
        "HTTP_PORT": str(port),
        "MAX_BATCH": "3",
    }
    module = "tests.support.worker_process"
    with (
        a_child(module, topic, answers, environment=environment) as child,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        child.says("worker started")
        yield child, client


def checks(client: httpx.Client, path: str) -> tuple[int, dict[str, str]]:
    try:
        answer = client.get(path)
    except httpx.TransportError:
        return 0, {}
    return answer.status_code, answer.json()["checks"]


def test_sigterm_lets_a_worker_finish_its_batch_and_say_so_before_it_leaves(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, answers = broker.topic(), broker.topic("answers")
    ids = [new_id() for _ in range(6)]
    with a_worker_process(database, broker.bootstrap, topic, answers) as (child, client):
        eventually(lambda: checks(client, "/health/ready")[0] == 200)
        assert checks(client, "/health/live") == (200, {"loop": "ok"})
        assert client.get("/elsewhere").status_code == 404
        monkeypatch.setenv("HTTP_PORT", str(client.base_url.port))
        assert probe.main() == 0
        broker.produce(topic, [a_message(message_id=i) for i in ids])
        child.says("handling")
        began = time.monotonic()
        child.send(signal.SIGTERM)
        assert child.wait(20) == 0
        took_s = time.monotonic() - began
    done = database.rows("SELECT message_id FROM effects ORDER BY id")
    assert done == ids[: len(done)]
    assert 1 <= len(done) <= 3
    assert took_s < 10
    assert probe.main() == 1, "nobody listens any more"
    said = [(record.value or b"").decode() for record in broker.read(answers)]
    assert said == [str(i) for i in done], "what the last batch said is out"
    assert database.waiting() == []
    assert broker.committed("order_service", topic) == len(done)
    assert "worker stopped" in child.output
    assert relay_locks(database) == []


def test_a_worker_without_a_broker_stays_alive_says_that_it_is_not_ready_and_stops_when_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"127.0.0.1:{Ports.free().kafka}"
    database.publish()
    with a_worker_process(database, nowhere, "t", "a") as (child, client):
        eventually(lambda: checks(client, "/health/live")[0] == 200)
        status, results = checks(client, "/health/ready")
        assert status == 503
        assert results["database"] == "ok"
        assert results["broker"] != "ok"
        monkeypatch.setenv("HTTP_PORT", str(client.base_url.port))
        assert probe.main() == 1
        child.says("prepare has to wait")
        began = time.monotonic()
        child.send(signal.SIGTERM)
        assert child.wait(20) == 0
        assert time.monotonic() - began < 20


def test_a_worker_in_a_call_that_hangs_ends_all_the_same_when_told(
    database: Database, broker: Broker
) -> None:
    with a_worker_process(database, broker.bootstrap, broker.topic(), "a") as (child, client):
        eventually(lambda: checks(client, "/health/ready")[0] == 200)
        backends = database.rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'order_service-%'"
        )
        assert backends
        with ExitStack() as all_of_them:
            for pid in backends:
                all_of_them.enter_context(stopped(pid))
            began = time.monotonic()
            child.send(signal.SIGTERM)
            assert child.wait(30) == 1
            assert time.monotonic() - began < 20
        child.says("a call hangs")


def test_a_worker_whose_database_goes_away_stays_alive_and_is_ready_again_afterwards(
    database: Database, broker: Broker
) -> None:
    topic = broker.topic()
    with a_worker_process(database, broker.bootstrap, topic, "a") as (child, client):
        eventually(lambda: checks(client, "/health/ready")[0] == 200)
        database.shut()
        status, results = checks(client, "/health/ready")
        assert status == 503
        assert results["broker"] == results["loop"] == "ok"
        assert "OperationalError" in results["database"]
        assert checks(client, "/health/live")[0] == 200
        database.reopen()
        database.reconnect()
        eventually(lambda: checks(client, "/health/ready")[0] == 200)
        assert "ecom_outbox_rows 0.0" in client.get("/metrics").text
        assert child.process.poll() is None
