"""Our supervisord's step: log lines may come together, whoever asks for something is not kept waiting."""

import os
import socket
import time

import pytest
from ecom_local import supervise

_PAUSE_S = 5.0


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(supervise, "_LINES_COME_TOGETHER_S", _PAUSE_S)
    return pauses


class _Options:
    """What a poller is made with; it only logs with it."""


def _polled(*descriptors: int) -> list[int]:
    poller = supervise._Poller(_Options())
    for descriptor in descriptors:
        poller.register_readable(descriptor)
    readable, writable = poller.poll(1)
    assert writable == []
    return sorted(readable)


def test_what_processes_log_may_come_together(paused: list[float]) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a line\n")
    assert _polled(reading) == [reading]
    assert paused == [_PAUSE_S]
    os.close(reading)
    os.close(writing)


def test_nobody_who_asks_waits_for_it(paused: list[float]) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a line\n")
    asked, asking = socket.socketpair()
    with asked, asking:
        asking.send(b"status?")
        assert _polled(reading, asked.fileno()) == sorted([reading, asked.fileno()])
    assert paused == []
    os.close(reading)
    os.close(writing)


def test_a_quiet_step_pauses_for_nothing(paused: list[float]) -> None:
    assert _polled() == []
    assert paused == []
