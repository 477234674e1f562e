"""Wires between a client and a server of the platform, on which the worst can be made to happen.

A wire is a TCP proxy: it passes bytes, is cut at the moment of a COMMIT, is dead, delivers nothing, or is
slow. It knows of no fault and of no part of the platform: whoever wants one to use it gives it the wire's
address in place of the server's.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Literal, Self

from sqlalchemy import make_url

Moment = Literal["before", "after"]

HOST: Final = "127.0.0.1"
CHUNK: Final = 65_536
PACE_S: Final = 0.05
"""What a narrow wire delivers at once is what it carries in this time."""
CLOSE_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Quality:
    """How a wire treats what passes it, in both directions."""

    accepts: bool = True
    """When not, connections end as soon as they are made."""
    delivers: bool = True
    """When not, connections are made and kept, and nothing gets through until it is lifted."""
    delay_s: float = 0.0
    """Each chunk is so late, and the next waits behind it."""
    bytes_per_s: float | None = None


PERFECT: Final = Quality()


@dataclass(eq=False)
class Wire:
    """Carries the bytes of any number of connections both ways, until it is closed."""

    server: tuple[str, int]
    host: str = HOST
    """Where it listens; clients in containers reach an address of their network only."""
    cuts: list[Moment] = field(default_factory=list)
    """The cuts inside COMMIT that really happened."""
    accepted: int = 0
    """Connections that were ever made."""
    held: int = 0
    """Chunks that were kept back by a black hole."""
    slowed: int = 0
    """Chunks that were late or took long."""

    def __post_init__(self) -> None:
        self._listener = socket.create_server((self.host, 0), backlog=128)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._quality = PERFECT
        self._armed: Moment | None = None
        self._closed = False
        self._open: set[_Connection] = set()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._accept, name="wire", daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._open)

    def over(self, url: str) -> str:
        """The database URL that leads over this wire instead of straight to the server."""
        changed = make_url(url).set(host=self.address[0], port=self.address[1])
        return changed.render_as_string(hide_password=False)

    def cut(self, moment: Moment) -> None:
        """Arm it for the next COMMIT that passes, once.

        `before`: the server never sees that COMMIT. `after`: the server has answered it, and the client
        never learns of the answer. What was armed and has not met a COMMIT yet is replaced.
        """
        with self._changed:
            self._armed = moment

    def disarm(self) -> None:
        """Let the next COMMIT pass."""
        with self._changed:
            self._armed = None

    @contextmanager
    def dead(self) -> Iterator[None]:
        """Every connection is broken, and new ones end at once."""
        with self._as(replace(PERFECT, accepts=False)):
            self.break_all()
            yield

    @contextmanager
    def black_hole(self) -> Iterator[None]:
        """Connections are made and kept, and nothing is delivered; what was on its way arrives afterwards."""
        with self._as(replace(PERFECT, delivers=False)):
            yield

    @contextmanager
    def slow(self, *, delay_s: float = 0.0, bytes_per_s: float | None = None) -> Iterator[None]:
        """Everything is late, or takes long."""
        with self._as(replace(PERFECT, delay_s=delay_s, bytes_per_s=bytes_per_s)):
            yield

    def break_all(self) -> None:
        """Break every connection there is now."""
        for connection in list(self._open):
            connection.end()

    def close(self) -> None:
        """End everything, and wait until it has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        _shut(self._listener)
        self._listener.close()
        self.break_all()
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_S)

    @contextmanager
    def _as(self, quality: Quality) -> Iterator[None]:
        assert self._quality == PERFECT, "one thing at a time"
        self._become(quality)
        try:
            yield
        finally:
            self._become(PERFECT)

    def _become(self, quality: Quality) -> None:
        with self._changed:
            self._quality = quality
            self._changed.notify_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                if not self._quality.accepts:
                    client.close()
                    continue
                self._threads = [t for t in self._threads if t.is_alive()]
                thread = threading.Thread(target=self._carry, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, client: socket.socket) -> None:
        # A server that is away refuses, and so does the wire to it.
        with client, suppress(OSError), socket.create_connection(self.server) as server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client, server)
            self._open.add(connection)
            try:
                answers = threading.Thread(
                    target=self._pump, args=(connection, server, client, self._cuts_answer)
                )
                answers.daemon = True
                answers.start()
                self._pump(connection, client, server, self._cuts_question)
                answers.join()
            finally:
                self._open.discard(connection)

    def _pump(
        self,
        connection: "_Connection",
        source: socket.socket,
        sink: socket.socket,
        cuts: Callable[[bytes], bool],
    ) -> None:
        with suppress(OSError):
            while True:
                data = source.recv(CHUNK)
                self._until_delivering()
                if not data:
                    break
                if cuts(data):
                    connection.end()
                    break
                self._deliver(data, sink)
        _shut(sink)

    def _until_delivering(self) -> None:
        with self._changed:
            self.held += not self._quality.delivers
            self._changed.wait_for(lambda: self._quality.delivers or self._closed)

    def _deliver(self, data: bytes, sink: socket.socket) -> None:
        quality = self._quality
        self.slowed += quality != PERFECT
        if quality.delay_s:
            time.sleep(quality.delay_s)
        if quality.bytes_per_s is None:
            sink.sendall(data)
            return
        step = max(1, int(quality.bytes_per_s * PACE_S))
        for begin in range(0, len(data), step):
            # Not for what is left of it when the wire is as wide as before.
            if self._quality == quality:
                time.sleep(PACE_S)
            sink.sendall(data[begin : begin + step])

    def _cuts_question(self, data: bytes) -> bool:
        # A simple query: the only COMMIT in capitals that clients of ours send.
        return b"COMMIT" in data and self._cuts("before")

    def _cuts_answer(self, data: bytes) -> bool:
        # The tag of a completed command.
        return b"COMMIT\0" in data and self._cuts("after")

    def _cuts(self, moment: Moment) -> bool:
        with self._changed:
            if self._armed != moment:
                return False
            self._armed = None
        self.cuts.append(moment)
        return True


@dataclass(frozen=True, eq=False)
class _Connection:
    client: socket.socket
    server: socket.socket

    def end(self) -> None:
        _shut(self.client)
        _shut(self.server)


@contextmanager
def a_wire(url: str) -> Iterator[tuple[Wire, str]]:
    """A wire to the database server of `url`, and the URL that leads over it."""
    with Wire(server_of(url)) as wire:
        yield wire, wire.over(url)


def server_of(url: str) -> tuple[str, int]:
    """Where the database server of this URL listens."""
    address = make_url(url)
    assert address.host is not None
    assert address.port is not None
    return address.host, address.port


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
