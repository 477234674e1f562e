"""Each thing that can happen on a wire, against a server that echoes what it gets."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.chaos.wires import CHUNK, Moment, Wire
from tests.support.waiting import eventually

PATIENCE_S = 10.0
# Far longer than loopback takes on a busy machine, far shorter than patience.
SOON_S = 0.3


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wire(echo: tuple[str, int]) -> Iterator[Wire]:
    with Wire(echo) as wire:
        yield wire


def test_what_is_sent_comes_back_whole(wire: Wire) -> None:
    data = bytes(range(256)) * 4_000
    with _connect(wire) as client:
        threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
        assert _read(client, len(data)) == data
        assert wire.connections == 1
    eventually(lambda: wire.connections == 0)


def test_a_client_that_leaves_is_seen_leaving_by_the_server_and_the_other_way_round(
    wire: Wire,
) -> None:
    with _connect(wire) as client:
        client.sendall(b"bye")
        assert _read(client, 3) == b"bye"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_it_is_cut_once_at_the_next_commit(wire: Wire, moment: Moment) -> None:
    wire.cut(moment)
    with _connect(wire) as client:
        client.sendall(b"SELECT 1")
        assert _read(client, 8) == b"SELECT 1"
        client.sendall(b"COMMIT\0")
        assert _ended(client)
    with _connect(wire) as client:
        client.sendall(b"COMMIT\0")
        assert _read(client, 7) == b"COMMIT\0"
    assert wire.cuts == [moment]


def test_a_dead_wire_breaks_what_there_is_and_accepts_nothing_until_it_is_mended(
    wire: Wire,
) -> None:
    with _connect(wire) as before:
        before.sendall(b"a")
        assert _read(before, 1) == b"a"
        with wire.dead():
            assert _ended(before)
            with _connect(wire) as during:
                assert _ended(during)
    assert _echoes(wire)


def test_a_black_hole_keeps_connections_and_delivers_what_it_held_only_afterwards(
    wire: Wire,
) -> None:
    with _connect(wire) as old:
        old.sendall(b"a")
        assert _read(old, 1) == b"a"
        with wire.black_hole(), _connect(wire) as new:
            for client, data in ((old, b"b"), (new, b"c")):
                client.sendall(data)
                client.settimeout(SOON_S)
                with pytest.raises(TimeoutError):
                    client.recv(1)
            eventually(lambda: wire.connections == 2)
        assert _read(old, 1) == b"b"
    assert _echoes(wire)


def test_a_black_hole_does_not_tell_that_somebody_has_left(wire: Wire) -> None:
    client = _connect(wire)
    client.sendall(b"a")
    assert _read(client, 1) == b"a"
    with wire.black_hole():
        client.close()
        time.sleep(SOON_S)
        assert wire.connections == 1
    eventually(lambda: wire.connections == 0)


def test_a_delay_is_met_each_way(wire: Wire) -> None:
    with _connect(wire) as client, wire.slow(delay_s=0.2):
        begin = time.monotonic()
        client.sendall(b"a")
        assert _read(client, 1) == b"a"
        assert time.monotonic() - begin >= 0.4


def test_a_narrow_wire_takes_long_and_is_wide_again_at_once(wire: Wire) -> None:
    data = bytes(20_000)
    with _connect(wire) as client:
        with wire.slow(bytes_per_s=40_000):
            begin = time.monotonic()
            client.sendall(data)
            assert _read(client, len(data)) == data
            assert time.monotonic() - begin >= 0.5
        begin = time.monotonic()
        client.sendall(data)
        assert _read(client, len(data)) == data
        assert time.monotonic() - begin < 0.5


def test_a_wire_to_nobody_refuses(echo: tuple[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = nobody.getsockname()
    with Wire(address) as wire, _connect(wire) as client:
        assert _ended(client)


def test_a_closed_wire_leaves_no_thread_behind_even_in_a_black_hole(echo: tuple[str, int]) -> None:
    before = threading.active_count()
    wire = Wire(echo)
    with _connect(wire) as client, wire.black_hole():
        client.sendall(b"a")
        eventually(lambda: wire.connections == 1)
        wire.close()
        assert _ended(client)
    eventually(lambda: threading.active_count() <= before + 1)  # the echo server's own


def test_urls_lead_over_it(wire: Wire) -> None:
    url = wire.over("postgresql://role:s%40fe@127.0.0.1:5433/orderdb?sslmode=disable")
    port = wire.address[1]
    assert url == f"postgresql://role:s%40fe@127.0.0.1:{port}/orderdb?sslmode=disable"


def _serve(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_echo, args=(client,), daemon=True).start()


def _echo(client: socket.socket) -> None:
    with client, suppress(OSError):
        while data := client.recv(CHUNK):
            client.sendall(data)


def _connect(wire: Wire) -> socket.socket:
    return socket.create_connection(wire.address, PATIENCE_S)


def _read(client: socket.socket, count: int) -> bytes:
    client.settimeout(PATIENCE_S)
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def _ended(client: socket.socket) -> bool:
    client.settimeout(PATIENCE_S)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def _echoes(wire: Wire) -> bool:
    with _connect(wire) as client:
        client.sendall(b"x")
        return _read(client, 1) == b"x"
