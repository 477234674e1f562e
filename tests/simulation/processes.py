"""The processes of the three services, put together from their real classes, as their own `main`s do.

A process acts only when it is its turn. It can die at any crash point; then its connections are gone, and it
is built anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any, Final, cast

from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import Producer as KafkaProducer
from ecom_common import inbox
from ecom_common.batch import Failed, apply_batch
from ecom_common.consumer import Consumer
from ecom_common.database import make_sessions
from ecom_common.errors import DependencyDown
from ecom_common.messages import Handler, Received
from ecom_common.relay import Relay
from ecom_common.service_worker import Parts
from ecom_common.worker import Sweep
from ecom_contracts.topics import dead_letter_topic
from inventory_service import service as inventory
from inventory_service import worker as inventory_worker
from inventory_service.settings import Settings as InventorySettings
from order_service import worker as order_worker
from order_service.service import OrderDesk
from order_service.settings import Settings as OrderSettings
from payment_service import worker as payment_worker
from payment_service.jobs import JobSettings, ProviderJobs
from payment_service.settings import Settings as PaymentSettings
from payment_service.simulator import Simulator
from payment_service.states import Backoff
from sqlalchemy.orm import Session

from tests.simulation.broker import Broker, SimulatedConsumer, SimulatedProducer
from tests.simulation.clock import Clock
from tests.simulation.laboratory import Laboratory, Plug
from tests.simulation.provider import BadLine, Line
from tests.simulation.trace import Trace
from tests.simulation.weather import CALM, Weather

LOOP: Final = "loop"
JOBS: Final = "jobs"
"""The two threads of a worker: one can act while the other stands between two steps."""

_INBOX_KEPT: Final = timedelta(seconds=120)
_LATE_S: Final = 3.0
_SLOW_S: Final = 1.0


class HandlerBug(Exception):
    """What a bug in a handler of ours would raise; put there by the simulation."""


@dataclass(frozen=True)
class AllSettings:
    """Of the three services, in one run."""

    order: OrderSettings
    inventory: InventorySettings
    payment: PaymentSettings


@dataclass
class Surroundings:
    """What all processes share: time, chance, the broker, the provider, and who writes down what happens."""

    laboratory: Laboratory
    random: Random
    clock: Clock
    trace: Trace
    broker: Broker
    line: Line
    settings: AllSettings
    pause: Callable[[], None]
    weather: Weather = CALM
    bugs: dict[object, int] = field(default_factory=dict)
    """How often the message or command with this id will fail yet."""
    lost_commits: list[tuple[str, str]] = field(default_factory=list)

    def meet_bug(self, what: object) -> None:
        """Raise as often as the bug in this message or command wants."""
        if what not in self.bugs:
            has_bug = self.random.random() < self.weather.handler_bug
            self.bugs[what] = self.random.choice((1, 2, 3, 4, 9)) if has_bug else 0
        if self.bugs[what]:
            self.bugs[what] -= 1
            self.trace.note(f"a bug in the handling of {what}")
            raise HandlerBug(str(what))


class Process:
    """What dies and is built anew."""

    def __init__(self, around: Surroundings, service: str, name: str) -> None:
        self.around = around
        self.service = service
        self.name = name
        self.generation = 0
        self.plug: Plug = around.laboratory.plug(service, name)
        self.plug.drop()
        wire = self.plug.wire
        wire.clock, wire.random = around.clock, around.random
        wire.tell = partial(self._commit_lost)
        self.sessions = make_sessions(self.plug.engine)

    def begin(self) -> None:
        """As `main` does."""

    def die(self) -> None:
        self.generation += 1
        self.plug.drop()

    def _commit_lost(self, when: str) -> None:
        self.around.trace.note(f"connection lost {when} COMMIT")
        self.around.lost_commits.append((self.name, when))


@dataclass(frozen=True, slots=True)
class Request:
    """A command on its way, and who wants to hear of it. No answer is an answer, too: None."""

    command: Any
    answer: Callable[[Any], None]
    bug_id: object


class Api(Process):
    """An api process: what waits together goes into one transaction, as in a `Batcher`."""

    def __init__(self, around: Surroundings, service: str) -> None:
        self._waiting: list[Request] = []
        super().__init__(around, service, f"{service}-api")
        desk = OrderDesk(around.settings.order)
        self._handle: Callable[[Session, Sequence[Any]], Sequence[Any]] = (
            desk.handle_commands if service == "order" else inventory.handle_commands
        )

    def submit(self, request: Request) -> None:
        self._waiting.append(request)

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    def serve(self) -> int:
        """One batch; how many commands."""
        size = self.around.random.randint(1, 8)
        batch, self._waiting = self._waiting[:size], self._waiting[size:]
        if not batch:
            return 0
        by_command = {id(request.command): request for request in batch}

        def handle(session: Session, commands: Sequence[Any]) -> Sequence[Any]:
            for command in commands:
                self.around.meet_bug(by_command[id(command)].bug_id)
            return self._handle(session, commands)

        try:
            outcomes = apply_batch(
                self.sessions,
                handle,
                [request.command for request in batch],
                name="commands",
                sleep=self.around.clock.advance,
            )
        except DependencyDown as error:
            outcomes = [Failed(error) for _ in batch]
        for request, outcome in zip(batch, outcomes, strict=True):
            request.answer(outcome)
        return len(batch)

    def die(self) -> None:
        super().die()
        self._waiting.clear()  # their connections are gone: nobody hears anything


class Worker(Process):
    """A worker process: consumer, relay, sweeps, and the payment service's jobs."""

    consumer: Consumer
    relay: Relay
    sweeps: Sequence[Sweep]
    jobs: ProviderJobs | None = None

    def begin(self) -> None:
        around = self.around
        parts = _PARTS[self.service](self)
        self._kafka = SimulatedConsumer(around.broker, parts.service)
        self.consumer = Consumer(
            cast(KafkaConsumer, self._kafka),
            self.sessions,
            _Tap(around).on_all(parts),
            topics=[topic.name for topic in parts.topics],
            dead_letter_topic=dead_letter_topic(parts.service).name,
            max_batch=around.settings.order.max_batch,
            clock=around.clock.monotonic,
            sleep=around.clock.advance,
        )
        self.relay = Relay(
            self.plug.relay_engine,
            lambda: cast(KafkaProducer, SimulatedProducer(around.broker)),
            clock=around.clock.monotonic,
        )
        own = [sweep for sweep in parts.sweeps if not sweep.name.startswith("observe")]
        self.sweeps = [*own, Sweep("prune_inbox", 5.0, _prune_inbox)]

    def die(self) -> None:
        super().die()
        self.relay.close()  # it holds a connection that the pool does not
        self._kafka.close()

    def consume(self) -> int:
        return self.consumer.run_once(0.0)

    def publish(self) -> int:
        return self.relay.run_once()

    def ask_provider(self) -> int:
        assert self.jobs is not None
        return self.jobs.run_once()


def _prune_inbox(session: Session) -> int:
    return inbox.prune(session, older_than=_INBOX_KEPT, most=100)


class _Tap:
    """Writes down what the handlers get, and has bugs in them."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        # One for each, because neighbours with the same handler are one call.
        self._taps: dict[Handler, Handler] = {}

    def on_all(self, parts: Parts) -> dict[str, Handler]:
        return {type_: self._on(handler) for type_, handler in parts.handlers.items()}

    def _on(self, handler: Handler) -> Handler:
        def tapped(session: Session, messages: Sequence[Received]) -> None:
            for message in messages:
                envelope = message.envelope
                place = f"{message.topic}/{message.partition}#{message.offset}"
                said = f"{envelope.type} {envelope.subject} {_state(envelope.data)}"
                self._around.trace.note(f"← {said} {place}")
                self._around.meet_bug(envelope.id)
            handler(session, messages)

        return self._taps.setdefault(handler, tapped)


def _state(data: Any) -> str:
    state = getattr(data, "state", None)
    return "" if state is None else f"{state} v{data.version}"


def _order_parts(worker: Worker) -> Parts:
    return order_worker.parts(OrderDesk(worker.around.settings.order))


def _inventory_parts(worker: Worker) -> Parts:
    return inventory_worker.parts(worker.around.settings.inventory)


def _payment_parts(worker: Worker) -> Parts:
    around, settings = worker.around, worker.around.settings.payment
    simulator = Simulator(
        around.laboratory.provider.book,
        timeout_s=settings.provider_timeout_s,
        slow_s=_SLOW_S,
        late_s=_LATE_S,
        sleep=around.clock.advance,
    )
    worker.jobs = ProviderJobs(
        worker.sessions,
        BadLine(simulator, around.line, around.pause),
        JobSettings(
            threads=settings.provider_threads,
            call_timeout_s=settings.provider_timeout_s,
            lease_s=settings.provider_lease_s,
            backoff=Backoff(settings.provider_retry_first_s, settings.provider_retry_most_s),
        ),
        clock=around.clock.monotonic,
        sleep=around.clock.advance,
    )
    return payment_worker.parts(worker.jobs)


_PARTS: Final[dict[str, Callable[[Worker], Parts]]] = {
    "order": _order_parts,
    "inventory": _inventory_parts,
    "payment": _payment_parts,
}
