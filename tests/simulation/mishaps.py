"""What befalls everybody: time passes, the broker and the network fail, strangers write into topics."""

from collections.abc import Iterator, Sequence

from tests.simulation.actors import Actor
from tests.simulation.processes import Process, Surroundings


class Mishaps:
    """As actors among the others, as likely as the weather has them."""

    def __init__(self, around: Surroundings, processes: Sequence[Process]) -> None:
        self._around = around
        self._processes = processes

    def actors(self) -> Iterator[Actor]:
        now, broker = self._around.weather, self._around.broker
        yield Actor("time", self._pass_time, 8)
        yield Actor("time", self._leap, now.leap)
        yield Actor("broker", self._toggle_broker, 4 if broker.is_down else now.broker_stops)
        yield Actor("broker", lambda: broker.rebalance(self._group()), now.rebalance)
        yield Actor("broker", lambda: broker.rewind(self._group()), now.rewind)
        yield Actor("broker", broker.lose_tail, now.tail_lost)
        yield Actor("broker", self._lose_everything, now.all_lost)
        yield Actor("broker", broker.let_go, 2 if broker.holds_back else 0)
        yield Actor("a stranger", self._poison, now.poison)
        yield Actor("network", self._drop_connections, now.connections_drop)

    def _pass_time(self) -> None:
        self._around.clock.advance(
            self._around.random.choice((0.001, 0.02, 0.2, 1.0, 2.5)) * self._around.random.random()
        )

    def _leap(self) -> None:
        self._around.clock.advance(
            self._around.random.uniform(1, self._around.settings.order.order_deadline_s)
        )
        self._around.trace.note("much time has passed")

    def _toggle_broker(self) -> None:
        self._around.broker.is_down = not self._around.broker.is_down
        self._around.trace.note("is down" if self._around.broker.is_down else "is back")

    def _group(self) -> str:
        group = self._around.random.choice(self._around.broker.groups)
        self._around.trace.note(f"moves partitions of {group}")
        return group

    def _poison(self) -> None:
        topic = self._around.random.choice(
            [t for t in sorted(self._around.broker.partitions) if "." in t]
        )
        self._around.trace.note(f"poison for {topic}")
        self._around.broker.take(
            topic, "poison", b'{"type": "stock.reserve.v1", "specversion": "1.0"}'
        )

    def _drop_connections(self) -> None:
        process = self._around.random.choice(self._processes)
        self._around.trace.note(f"{process.name} loses its connections")
        process.plug.wire.cut()

    def _lose_everything(self) -> None:
        self._around.trace.note("loses everything")
        self._around.broker.lose_everything()
