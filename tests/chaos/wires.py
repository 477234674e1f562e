"""A wire between a part and what it talks to: open, cut, or swallowing everything."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

CHUNK: Final = 65_536
POLL_S: Final = 0.05

State = Literal["open", "cut", "black hole"]


@dataclass
class Wire:
    """Carries bytes both ways between its own port and that of the server.

    `cut`: connections end and new ones are refused. `black hole`: connections stay, new ones are accepted,
    and nothing arrives, as behind a firewall that drops. `delay_s` is added to every chunk.
    """

    server_port: int
    port: int
    state: State = "open"
    delay_s: float = 0.0
    carried: int = 0
    """Bytes, both ways."""
    swallowed: int = 0
    """Chunks that were kept back by a black hole."""
    _ends: list[socket.socket] = field(default_factory=list)

    def cut(self) -> None:
        self.state = "cut"
        for end in list(self._ends):
            _shut(end)

    def swallow(self) -> None:
        self.state = "black hole"

    def mend(self) -> None:
        """Open again. What a black hole kept back is lost with its connections, as it would be after a while."""
        was, self.state = self.state, "open"
        if was == "black hole":
            for end in list(self._ends):
                _shut(end)

    def _carry(self, client: socket.socket) -> None:
        if self.state == "cut":
            client.close()
            return
        with client, socket.create_connection(("127.0.0.1", self.server_port)) as server:
            self._ends += [client, server]
            back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
            back.start()
            self._pass_on(client, server)
            back.join()
            for end in (client, server):
                self._ends.remove(end)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if self.state == "black hole":
                    self.swallowed += 1
                    continue
                if self.delay_s:
                    time.sleep(self.delay_s)
                target.sendall(data)
                self.carried += len(data)
        _shut(source)
        _shut(target)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._guarded, args=(client,), daemon=True).start()

    def _guarded(self, client: socket.socket) -> None:
        # A server that is not there: the client's connection ends, as it would without a wire.
        with suppress(OSError):
            self._carry(client)
        client.close()


@contextmanager
def a_wire(server_port: int) -> Iterator[Wire]:
    """A wire to a port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(server_port, listener.getsockname()[1])
        threading.Thread(target=wire._accept, args=(listener,), daemon=True).start()
        try:
            yield wire
        finally:
            _shut(listener)
            wire.cut()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
