"""A relay in a process of its own:

    python -m tests.support.relay_process DATABASE_URL BOOTSTRAP IDLE_SESSION_TIMEOUT_S

It says `leads`, `follows` or `failed …` whenever that changes.
"""

import sys
import time

from ecom_common.kafka import make_producer
from ecom_common.relay import Relay, make_relay_engine
from ecom_common.settings import KafkaSettings


def main(url: str, bootstrap: str, idle_session_timeout_s: str) -> None:
    engine = make_relay_engine(
        url,
        application_name="relay-process",
        idle_session_timeout_s=float(idle_session_timeout_s),
    )
    settings = KafkaSettings(bootstrap_servers=bootstrap)
    relay = Relay(engine, lambda: make_producer(settings, client_id="relay-process"))
    said = ""
    while True:
        try:
            relay.run_once()
            state = "leads" if relay.is_leader else "follows"
        except Exception as error:
            state = f"failed {type(error).__name__}"
        if state != said:
            print(state, flush=True)
            said = state
        time.sleep(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
