"""Read-only queries of a service's databases, for operators' tools that run elsewhere.

    python -m ecom_common.query < questions.json

Wherever the service runs it can reach its databases, which its operator's tools may not. A question is
`{"url": NAME, "sql": QUERY}`, with the name of the variable that holds the URL; the answers are printed as one
JSON document, for each question its rows, all values as text.
"""

import json
import os
import sys
from collections.abc import Sequence

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from ecom_common.database import make_engine
from ecom_common.errors import ConfigurationError
from ecom_common.logs import describe

# Whole tables are compared: longer than any request may take.
_OPTIONS = {"default_transaction_read_only": "on", "statement_timeout": "60s"}


def answer(engine: Engine, query: str) -> list[list[str]]:
    with engine.connect() as connection:
        return [list(map(str, row)) for row in connection.execute(text(query))]


def main(questions: Sequence[dict[str, str]]) -> int:
    """0 answered, 1 a database does not answer, 2 a variable is missing or malformed."""
    answers = []
    try:
        for question in questions:
            if not (url := os.environ.get(question["url"])):
                raise ConfigurationError(f"{question['url']} must be set")
            engine = make_engine(
                url, application_name="query", pool_size=1, server_options=_OPTIONS
            )
            answers.append(answer(engine, question["sql"]))
            engine.dispose()
    except (DBAPIError, ConfigurationError) as error:
        print(f"error: {describe(error)}", file=sys.stderr)  # noqa: T201 - a command's error
        return 2 if isinstance(error, ConfigurationError) else 1
    print(json.dumps(answers))  # noqa: T201 - the command's result
    return 0


if __name__ == "__main__":
    sys.exit(main(json.load(sys.stdin)))
