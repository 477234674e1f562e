"""The worker: one loop that consumes a batch, relays the outbox, and sweeps when it is time.

One loop and not a thread for each: threads would fight for the interpreter and cost a fifth more CPU. What
waits for other machines (calls of a payment provider) has threads of its own, given as `side_jobs`.

A step that fails does not end the loop: it is logged and tried again after a pause, because what fails
here is a dependency, and supervisors that restart us would only add to its load.
"""

import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Protocol

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.orm import Session

from ecom_common import metrics, outbox
from ecom_common.consumer import Consumer
from ecom_common.crash_points import crash_point
from ecom_common.database import Sessions, Trouble, backoff_s, classify
from ecom_common.errors import DependencyDown
from ecom_common.health import Check, run_checks
from ecom_common.logs import describe
from ecom_common.relay import Relay
from ecom_common.stopping import end_within

IDLE_POLL_S: Final = 0.01
"""How long an idle loop waits for a message before it looks into the outbox again."""
LIVE_WITHIN_S: Final = 30.0
"""A loop that has been in one step for this long is stuck."""
SIDE_JOB_STOP_S: Final = 8.0
"""With two rounds of a broker that hangs (5 s each) the process still ends within 20 s."""
LAG_EVERY_S: Final = 5.0
PREPARE_EVERY_S: Final = 10.0
"""How often a worker that runs makes sure again: a broker may lose its topics at any time."""
_STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})

log = logging.getLogger(__name__)


@dataclass
class Sweep:
    """Something to look for every now and then, in a transaction of its own.

    `run` gets a session and returns how much it dealt with; when that is a full round it is called
    again after `pause_s`.
    """

    name: str
    every_s: float
    run: Callable[[Session], int]
    full_round: int = 1_000_000
    pause_s: float = 0.0
    due_at: float = field(default=0.0)

    def run_once(self, sessions: Sessions) -> int:
        """One round; how much it dealt with."""
        with sessions.begin() as session:
            done = self.run(session)
            if done:
                crash_point("sweep.before_commit")
        return done


class SideJob(Protocol):
    """Work on threads of its own, beside the loop."""

    def start(self) -> None: ...

    def stop(self, timeout_s: float) -> None:
        """Finish what has begun, within `timeout_s`."""


class Worker:
    """Runs a service's consumer, relay, sweeps and side jobs until it is told to stop."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        consumer: Consumer,
        relay: Relay,
        sweeps: Sequence[Sweep],
        side_jobs: Sequence[SideJob] = (),
        prepare: Callable[[], None] = lambda: None,
        outbox_poll_s: float = IDLE_POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`prepare` is tried until it succeeds, before the first message is consumed or published; then it is
        called again now and then, and its failures hold up nothing any more. `outbox_poll_s` is how often to look
        for what other processes have written to the outbox."""
        self._sessions = sessions
        self._prepare = prepare
        self._is_prepared = False
        self._prepare_due_at = clock()
        self._consumer = consumer
        self._relay = relay
        self._sweeps = sweeps
        self._side_jobs = side_jobs
        self._clock = clock
        self._stopping = threading.Event()
        self._moved_at = clock()
        self._lag_due_at = 0.0
        self._outbox_poll_s = outbox_poll_s
        self._relay_due_at = 0.0
        self._troubles: dict[str, int] = {}

    def run(self) -> None:
        """Loop until `stop`; then finish the batch, leave the group, give up the relay's lock."""
        for job in self._side_jobs:
            job.start()
        try:
            while not self._stopping.is_set():
                self.run_once()
        finally:
            for job in self._side_jobs:
                job.stop(SIDE_JOB_STOP_S)
            # What the last batch said goes out before we leave, if the broker takes it.
            if self._is_prepared:
                self._guarded("relay", self._relay.run_once)
            self._consumer.close()
            self._relay.close()

    def run_once(self) -> int:
        """One round; how many messages were handled or published."""
        done = 0
        if self._clock() >= self._prepare_due_at:
            self._guarded("prepare", self._prepare_once)
        if self._is_prepared:
            done += self._guarded("consume", lambda: self._consumer.run_once(IDLE_POLL_S))
            done += self._relay_when_due()
        now = self._clock()
        for sweep in self._sweeps:
            if now >= sweep.due_at:
                self._guarded(sweep.name, lambda sweep=sweep: self._sweep(sweep))  # type: ignore[misc]
        if now >= self._lag_due_at:
            self._lag_due_at = now + LAG_EVERY_S
            self._guarded("lag", self._observe_lag)
        return done

    def stop(self) -> None:
        self._stopping.set()

    def _relay_when_due(self) -> int:
        """At once when something was written here, or was left by the last round; else now and then."""
        if not outbox.written.is_set() and self._clock() < self._relay_due_at:
            return 0
        outbox.written.clear()
        published = self._guarded("relay", self._relay.run_once)
        self._relay_due_at = self._clock() + (0.0 if published else self._outbox_poll_s)
        return published

    def check_alive(self) -> None:
        """A readiness and liveness check: no step of the loop is stuck."""
        silent_s = self._clock() - self._moved_at
        if silent_s > LIVE_WITHIN_S:
            raise DependencyDown(f"the loop has not moved for {silent_s:.0f} s")

    def _sweep(self, sweep: Sweep) -> int:
        begin = self._clock()
        # Due again at the normal time even when this one fails; jittered, so that workers spread out.
        sweep.due_at = begin + sweep.every_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        done = sweep.run_once(self._sessions)
        if done >= sweep.full_round:
            sweep.due_at = begin + sweep.pause_s
        metrics.SWEEP_SECONDS.labels(sweep.name).observe(self._clock() - begin)
        metrics.SWEPT.labels(sweep.name).inc(done)
        return done

    def _prepare_once(self) -> int:
        self._prepare_due_at = self._clock() + PREPARE_EVERY_S
        try:
            self._prepare()
        except Exception:
            if not self._is_prepared:
                self._prepare_due_at = self._clock()  # nothing else can be done before
            raise
        self._is_prepared = True
        return 1

    def _observe_lag(self) -> int:
        self._consumer.observe_lag()
        return 0

    def _guarded(self, name: str, step: Callable[[], int]) -> int:
        try:
            done = step()
        except Exception as error:
            self._report(name, error)
            return 0
        finally:
            # After each step and not each round: with the database away every one of them has to wait.
            self._moved_at = self._clock()
        if self._troubles.pop(name, None):
            log.info("%s works again", name)
        return done

    def _report(self, name: str, error: Exception) -> None:
        tries = self._troubles[name] = self._troubles.get(name, 0) + 1
        expected = isinstance(error, DependencyDown) or classify(error) is not Trouble.UNEXPECTED
        if not expected:
            log.error("%s failed: %s", name, describe(error), exc_info=error)
        elif tries == 1 or tries % 20 == 0:
            log.warning("%s has to wait (try %d): %s", name, tries, describe(error))
        self._stopping.wait(backoff_s(tries, first_s=0.05, most_s=1.0))


def run_until_signalled(
    worker: Worker, *, host: str, port: int, checks: Mapping[str, Check]
) -> None:
    """Run the worker, with its health and metrics at `host:port`, until SIGTERM or SIGINT."""

    # By a thread, and not by a handler: the main thread can be in a call that never returns to Python.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    threading.Thread(target=_stop_when_told, args=[worker], name="signals", daemon=True).start()
    server = _operations_server(host, port, worker, checks)
    threading.Thread(target=server.serve_forever, name="operations", daemon=True).start()
    try:
        worker.run()
    finally:
        server.shutdown()
        server.server_close()


def _stop_when_told(worker: Worker) -> None:
    signal.sigwait(_STOP_SIGNALS)
    end_within()
    worker.stop()


def _operations_server(
    host: str, port: int, worker: Worker, checks: Mapping[str, Check]
) -> ThreadingHTTPServer:
    class Operations(BaseHTTPRequestHandler):
        """GET /health/live, /health/ready and /metrics; the standard library is enough for three paths."""

        timeout = 5

        def do_GET(self) -> None:
            if self.path == "/health/live":
                self._answer_checks({"loop": worker.check_alive})
            elif self.path == "/health/ready":
                self._answer_checks({"loop": worker.check_alive, **checks})
            elif self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            else:
                self._answer(404, "text/plain", b"/health/live /health/ready /metrics\n")

        def _answer_checks(self, wanted: Mapping[str, Check]) -> None:
            ok, results = run_checks(wanted)
            document = {"status": "ok" if ok else "unavailable", "checks": results}
            self._answer(200 if ok else 503, "application/json", orjson.dumps(document))

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes every few seconds are not worth a line."""

    ThreadingHTTPServer.daemon_threads = True
    return ThreadingHTTPServer((host, port), Operations)
