"""A health check for containers: exit 0 when http://127.0.0.1:HTTP_PORT/health/ready answers 200.

A raw request and no imports but `socket`: it runs every few seconds in every container, started with
`python -I -S` in some 15 ms, where an HTTP library alone would take ten times that.
"""

import os
import socket
import sys
from typing import Final

TIMEOUT_S: Final = 4
_REQUEST: Final = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def main() -> int:
    """0 ready; 1 not, with the answer on standard output, where `docker inspect` shows it."""
    try:
        with socket.create_connection(
            ("127.0.0.1", int(os.environ["HTTP_PORT"])), TIMEOUT_S
        ) as peer:
            peer.settimeout(TIMEOUT_S)
            peer.sendall(_REQUEST)
            answer = b"".join(iter(lambda: peer.recv(4096), b""))
    except OSError as error:
        print(f"no answer: {error}")  # noqa: T201 - the check's output
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    print(body.decode(errors="replace"))  # noqa: T201
    return 0 if b" 200 " in head.partition(b"\r\n")[0] else 1


if __name__ == "__main__":
    sys.exit(main())
