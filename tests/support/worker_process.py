"""A small service's worker, put together as the real ones are:

    python -m tests.support.worker_process TOPIC ANSWERS

Settings come from the environment. Its handler takes its time, leaves effects and answers on ANSWERS.
"""

import sys
import time
from collections.abc import Sequence

from ecom_common import outbox
from ecom_common.logs import configure_logging
from ecom_common.messages import Received
from ecom_common.outbox import Outgoing
from ecom_common.service_worker import Parts, run_worker, worker_sessions
from ecom_common.settings import KafkaSettings, ServiceSettings, load
from ecom_contracts.topics import Topic
from sqlalchemy.orm import Session

from tests.support.chassis import leave_effects

SERVICE = "order_service"
HANDLING_S = 1.0


def main(topic: str, answers: str) -> None:
    configure_logging(service=SERVICE, process="worker", level="INFO")

    def handle(session: Session, messages: Sequence[Received]) -> None:
        print(f"handling {len(messages)}", flush=True)
        leave_effects(session, messages)
        time.sleep(HANDLING_S)
        outbox.publish(
            session,
            [Outgoing(answers, m.envelope.subject, str(m.envelope.id).encode()) for m in messages],
        )

    settings = load(ServiceSettings)
    parts = Parts(
        service=SERVICE,
        schema_version="1",
        topics=[Topic(name=topic, key="order_id", retention_ms=None, summary="For tests.")],
        handlers={"stock.commit.v1": handle},
        sweeps=[],
    )
    run_worker(parts, settings, load(KafkaSettings), worker_sessions(settings, SERVICE))


if __name__ == "__main__":
    main(*sys.argv[1:])
