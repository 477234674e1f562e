"""An app behind the real server, on a thread of this process."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from ecom_common.http import make_server
from ecom_common.settings import ServiceSettings
from fastapi import FastAPI

START_WITHIN_S = 10
STOP_WITHIN_S = 15


@contextmanager
def served(app: FastAPI, settings: ServiceSettings) -> Iterator[httpx.Client]:
    """A client of `app`, served at a free port of this machine."""
    server = make_server(app, settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=address, timeout=START_WITHIN_S) as client:
                client.get("/health/live").raise_for_status()
                yield client
        finally:
            server.should_exit = True
            thread.join(STOP_WITHIN_S)
            assert not thread.is_alive(), "the server does not stop"
