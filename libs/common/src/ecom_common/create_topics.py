"""Creates the topics that are missing, once, before the workers start.

    python -m ecom_common.create_topics

Workers do the same when they start; as a job of its own it shows early, and by its exit code, that the
broker can be reached and lets us create topics.
"""

import sys

from ecom_contracts.topics import ALL_TOPICS

from ecom_common.errors import EcomError
from ecom_common.kafka import ensure_topics
from ecom_common.settings import KafkaSettings, load


def main() -> int:
    """0 all are there; 1 the broker does not answer or refuses; 2 the environment is not usable."""
    try:
        settings = load(KafkaSettings)
    except EcomError as error:
        print(f"create_topics: {error}", file=sys.stderr)  # noqa: T201 - a command's error
        return 2
    try:
        ensure_topics(settings, ALL_TOPICS, client_id="create-topics")
    except EcomError as error:
        print(f"create_topics: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{len(ALL_TOPICS)} topics are there")  # noqa: T201 - the command's result
    return 0


if __name__ == "__main__":
    sys.exit(main())
