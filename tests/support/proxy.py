"""A wire between a client and Postgres that can be cut at the worst moment."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import make_url

Moment = Literal["before", "after"]
CHUNK = 65_536


@dataclass
class Wire:
    """Carries bytes both ways; `cut` arms it for the next COMMIT that passes, once.

    `before`: the server never sees that COMMIT. `after`: the server has answered it, and the client never
    learns of the answer.
    """

    server: tuple[str, int]
    armed: Moment | None = None
    cuts: list[Moment] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def cut(self, moment: Moment) -> None:
        self.armed = moment

    def carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.server) as server:
            answers = threading.Thread(target=self._answers, args=(server, client), daemon=True)
            answers.start()
            with suppress(OSError):
                while data := client.recv(CHUNK):
                    if self.armed == "before" and b"COMMIT" in data:
                        self._end("before", client, server)
                        break
                    server.sendall(data)
            _shut(server)
            answers.join()

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(CHUNK):
                if self.armed == "after" and b"COMMIT\0" in data:
                    self._end("after", client, server)
                    break
                client.sendall(data)
        _shut(client)

    def _end(self, moment: Moment, *sockets: socket.socket) -> None:
        self.armed = None
        self.cuts.append(moment)
        for end in sockets:
            _shut(end)


@contextmanager
def a_wire(url: str) -> Iterator[tuple[Wire, str]]:
    """A wire to the server of `url`, and the URL that leads over it."""
    address = make_url(url)
    assert address.host is not None
    assert address.port is not None
    wire = Wire((address.host, address.port))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, wire), daemon=True).start()
        over_wire = address.set(port=listener.getsockname()[1])
        try:
            yield wire, over_wire.render_as_string(hide_password=False)
        finally:
            _shut(listener)
            for thread in wire.threads:
                thread.join(10)


def _accept(listener: socket.socket, wire: Wire) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            thread = threading.Thread(target=wire.carry, args=(client,), daemon=True)
            wire.threads.append(thread)
            thread.start()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
