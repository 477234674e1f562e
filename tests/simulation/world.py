"""One run: everybody acts, one at a time, in an order that the seed decides.

A step is a transaction, or a round of a loop. Between two transactions of one process others may act: there
the crash points are. Inside a transaction nobody else can; what needs two at once is for the fault suite.
"""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Final

from ecom_audit.invariants import Violation
from ecom_common.database import Trouble, classify
from ecom_common.errors import DependencyDown
from ecom_common.logs import describe
from sqlalchemy import text

from tests.simulation import weather
from tests.simulation.actors import Actor, Crash
from tests.simulation.broker import Broker
from tests.simulation.clock import Clock
from tests.simulation.customers import Shoppers
from tests.simulation.laboratory import SERVICES, Laboratory
from tests.simulation.mishaps import Mishaps
from tests.simulation.operators import operate
from tests.simulation.processes import JOBS, AllSettings, Api, Process, Surroundings, Worker
from tests.simulation.provider import Line
from tests.simulation.run_settings import draw_settings
from tests.simulation.trace import Trace
from tests.simulation.weather import CALM, Weather

_PAUSES: Final = frozenset(
    {
        "batch.after_commit",
        "consumer.before_offsets",
        "relay.half_sent",
        "relay.before_delete",
        "provider.before_call",
        "provider.after_call",
    }
)
"""The crash points at which no transaction is open, so that others can act."""

_DEEPEST: Final = 3
"""Pauses inside of pauses."""
_STEPS_FOR_EACH_ORDER: Final = 45
_ROUND_S: Final = 0.02
_MOST_ROUNDS: Final = 100
"""Of waiting until there is nothing to do: those who never come to an end show up in the checks."""


_SLACK_S: Final = 10.0
_PATIENCE_S: Final = 120.0
"""How long operators wait for what they have set in motion: longer than any deadline."""
_LONGEST_WAIT_S: Final = 8.0
_UNSENT: Final = "SELECT EXISTS (SELECT FROM outbox)"
_OUTSTANDING: Final = {
    "order": f"{_UNSENT} OR EXISTS (SELECT FROM orders WHERE status IN ('pending', 'cancelling') "
    "AND payment <> 'refund_failed')",
    "inventory": _UNSENT,
    "payment": _UNSENT,
}


class World:
    """The three services, their customers, and what happens to them."""

    def __init__(
        self, laboratory: Laboratory, *, seed: int, orders: int, say: Callable[[str], object] | None
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = Clock()
        self.trace = Trace(self.clock, say)
        self.violations: list[Violation] = []
        self.settings: AllSettings = draw_settings(self.random)
        self.weather = weather.draw(self.random)
        self.broker = Broker(self.random, self.trace)
        line = Line(self.random, self.clock, self.trace, self.settings.payment.provider_timeout_s)
        laboratory.provider.wire.clock = self.clock
        laboratory.provider.wire.random = self.random
        self.around = Surroundings(
            laboratory,
            self.random,
            self.clock,
            self.trace,
            self.broker,
            line,
            self.settings,
            self.pause,
        )
        self.apis = {service: Api(self.around, service) for service in ("order", "inventory")}
        self.workers = [
            Worker(self.around, service, f"{service}-worker-{number}")
            for service in SERVICES
            for number in range(1, self.random.choice((1, 2, 2)) + 1)
        ]
        self.shoppers = Shoppers(
            self.random, self.trace, self.apis["order"], self.apis["inventory"], orders
        )
        self._mishaps = Mishaps(self.around, self.processes)
        self._running: list[Actor] = []
        self._most_steps = orders * _STEPS_FOR_EACH_ORDER

    @property
    def processes(self) -> list[Process]:
        return [*self.apis.values(), *self.workers]

    # ---- the run

    def open_shop(self) -> None:
        """The catalogue and some stock are there before the first customer, and before the first fault."""
        for worker in self.workers:
            worker.begin()
        self.shoppers.open_shop(units=self.random.choice((6, 15, 40)))
        self.settle()

    def live(self, midway: Callable[[], None]) -> None:
        """Customers come, and things go wrong; `midway` is called at some moment."""
        self._set_weather(self.weather)
        end = self.trace.steps + self._most_steps
        moment = self.random.randint(self.trace.steps, end)
        is_seen = False
        while self.trace.steps < end:
            self.step(self._choose())
            if not is_seen and self.trace.steps > moment:
                is_seen = True
                midway()

    def calm_down(self) -> None:
        """Nothing fails any more: every order that was placed has to be closed or confirmed by its deadline."""
        self._set_weather(CALM)
        self.broker.is_down = False
        self.around.bugs.clear()
        while self.broker.holds_back:
            self.broker.let_go()
            if self.random.random() < 0.3:
                self.settle()
        self._wait_for_the_end(self.settings.order.order_deadline_s + _SLACK_S)

    def recover(self) -> None:
        """With some help from operators everything comes to its end, and stays there."""
        for _ in range(2):
            operate(self.apis["order"], self.workers)
            self._wait_for_the_end(_PATIENCE_S)
        # What is closed has to stay so.
        self.clock.advance(
            max(self.settings.order.order_deadline_s, self.settings.inventory.reservation_ttl_s)
        )
        self.settle()

    def settle(self) -> None:
        """Rounds of everybody, until there is nothing to do without waiting."""
        for _ in range(_MOST_ROUNDS):
            done = sum([self.step(actor) for actor in self._services()])
            self.clock.advance(_ROUND_S)
            # A sweep that finds nothing costs as much as one that does: only when nothing else is left.
            if not done and not sum([self.step(actor) for actor in self._sweepers()]):
                return

    def close(self) -> None:
        """Nothing is left on the server."""
        for process in self.processes:
            process.die()

    def _wait_for_the_end(self, within_s: float) -> None:
        end = self.clock.passed_s + within_s
        wait_s = 1.0
        while self.clock.passed_s < end:
            self.shoppers.insist()
            self.settle()
            if self._is_finished():
                return
            self.clock.advance(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _is_finished(self) -> bool:
        engines = self.around.laboratory.auditing(self.clock)
        for service, sql in _OUTSTANDING.items():
            with engines[service].connect() as connection:
                if connection.scalar(text(sql)):
                    return False
        return True

    def step(self, actor: Actor) -> int:
        """What the actor did; a process that dies of it is built anew."""
        self.trace.steps += 1
        self.trace.actors.append(actor.name)
        self._running.append(actor)
        generation = actor.process.generation if actor.process else 0
        try:
            return int(actor.run() or 0)
        except Crash as crash:
            assert actor.process is not None
            self.trace.note(f"dies {crash}")
            if actor.process.generation == generation:
                self._restart(actor.process)
        except Exception as error:
            self.trace.note(f"fails: {describe(error)}")
            if not isinstance(error, DependencyDown) and classify(error) is not Trouble.DOWN:
                self._object("errors", actor.name, f"raised {describe(error)}", "no such error")
        finally:
            self._running.pop()
            self.trace.actors.pop()
        return 0

    # ---- at the crash points

    def at_point(self, name: str) -> None:
        """Called by the code under test wherever it may die."""
        if not self._running or self._running[-1].process is None:
            return
        if self.random.random() < self.around.weather.crash:
            raise Crash(f"at {name}")
        if name in _PAUSES:
            self.pause()

    def pause(self) -> None:
        """Let others act, and see whether this process has survived it."""
        actor = self._running[-1]
        assert actor.process is not None
        if len(self._running) > _DEEPEST or self.random.random() >= self.around.weather.meanwhile:
            return
        generation = actor.process.generation
        for _ in range(self.random.choice((1, 3, 8, 20))):
            self.step(self._choose())
        if actor.process.generation != generation:
            raise Crash("with its process")
        if self.random.random() < self.around.weather.cut_off:
            self.trace.note("loses its connections")
            actor.process.plug.wire.cut()

    # ---- who is next

    def _choose(self) -> Actor:
        everybody = (
            *self._clients(),
            *self._services(),
            *self._sweepers(),
            *self._mishaps.actors(),
        )
        actors = [actor for actor in everybody if self._is_free(actor)]
        return self.random.choices(actors, [actor.weight for actor in actors])[0]

    def _is_free(self, actor: Actor) -> bool:
        return actor.weight > 0 and not any(
            other.process is not None
            and other.process is actor.process
            and other.thread == actor.thread
            for other in self._running
        )

    def _clients(self) -> Iterator[Actor]:
        yield Actor("customers", self.shoppers.act, 6)
        yield Actor("staff", self.shoppers.look_after_stock, 0.3)

    def _services(self) -> Iterator[Actor]:
        for api in self.apis.values():
            if not api.is_idle:
                yield Actor(api.name, api.serve, 6, api)
        for worker in self.workers:
            yield Actor(worker.name, worker.consume, 8, worker)
            yield Actor(worker.name, worker.publish, 6, worker)
            if worker.jobs is not None:
                yield Actor(f"{worker.name}-jobs", worker.ask_provider, 5, worker, JOBS)

    def _sweepers(self) -> Iterator[Actor]:
        for worker in self.workers:
            for sweep in worker.sweeps:
                yield Actor(
                    worker.name,
                    partial(sweep.run_once, worker.sessions),
                    1 / sweep.every_s,
                    worker,
                )

    def _set_weather(self, now: Weather) -> None:
        self.around.weather = now
        self.broker.weather = now
        self.around.line.weather = now
        for process in self.processes:
            process.plug.wire.weather = now
        self.around.laboratory.provider.wire.weather = now

    def _restart(self, process: Process) -> None:
        process.die()
        process.begin()
        process.plug.wire.weather = self.around.weather

    def _object(self, name: str, subject: str, left: str, right: str) -> None:
        self.violations.append(Violation(name, subject, left, right))
