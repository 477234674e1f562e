"""A consumer in a process of its own, which is killed -9 after its transaction and before its offsets:

python -m tests.support.consumer_process DATABASE_URL BOOTSTRAP GROUP TOPIC
"""

import os
import signal
import sys
from typing import Any

from confluent_kafka import Consumer as KafkaConsumer
from ecom_common.consumer import Consumer
from ecom_common.database import make_engine, make_sessions

from tests.support.chassis import leave_effects


class DiesBeforeItsOffsets(KafkaConsumer):
    def commit(self, *_: Any, **__: Any) -> Any:
        print("committing", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def main(url: str, bootstrap: str, group: str, topic: str) -> None:
    engine = make_engine(url, application_name="consumer-process", pool_size=2)
    client = DiesBeforeItsOffsets(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "group.protocol": "consumer",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer = Consumer(
        client,
        make_sessions(engine),
        {"stock.commit.v1": leave_effects},
        topics=[topic],
        dead_letter_topic="none",
        max_batch=100,
    )
    print("started", flush=True)
    while True:
        consumer.run_once(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
