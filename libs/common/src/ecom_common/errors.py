"""Every error that our own code raises, as one tree.

    EcomError
    ├── Problem               what a client of the HTTP API is told (RFC 9457)
    ├── ConfigurationError    a setting is missing, malformed or unsafe: the process refuses to start
    ├── DependencyDown        Postgres or Kafka does not answer: back off and try again, nothing is lost
    ├── IllegalTransition     a business verb was applied in a state that does not allow it
    └── MigrationError        Flyway refused or failed

`Problem` is also a value: a command of a batch that is refused *returns* one (see `batch`), because
raising would roll back the transaction of its neighbours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


class EcomError(Exception):
    """The root of the tree: catching it catches every error of ours and no programmers' error."""


class ConfigurationError(EcomError):
    """A setting is missing, malformed or unsafe in this environment."""


class DependencyDown(EcomError):
    """A part we depend on does not answer; the unit of work was rolled back, or may be run again."""


class IllegalTransition(EcomError):
    """The state machine of an aggregate has no such transition."""


class MigrationError(EcomError):
    """A migration could not be applied; the message names the file and the SQL error."""


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """What all problems of one code have in common."""

    status: int
    title: str
    retryable: bool = False


# The whole vocabulary. Clients switch on the code, so a code is never renamed or given another meaning.
PROBLEM_KINDS: Final[Mapping[str, ProblemKind]] = {
    "idempotency_key_missing": ProblemKind(400, "An Idempotency-Key header is required"),
    "malformed_body": ProblemKind(400, "The body is not valid JSON"),
    "unauthenticated": ProblemKind(401, "A valid bearer token is required"),
    "forbidden": ProblemKind(403, "The token does not allow this"),
    "not_found": ProblemKind(404, "There is no such resource"),
    "method_not_allowed": ProblemKind(405, "This resource does not support the method"),
    "price_changed": ProblemKind(409, "The total differs from the expected one"),
    "checkout_reused": ProblemKind(409, "The checkout was used for another order"),
    "stock_in_use": ProblemKind(409, "The stock is reserved"),
    "request_in_progress": ProblemKind(
        409, "The same request is still in progress", retryable=True
    ),
    "not_cancellable": ProblemKind(409, "The order can no longer be cancelled"),
    "precondition_failed": ProblemKind(412, "The resource has changed"),
    "body_too_large": ProblemKind(413, "The body is too large"),
    "unsupported_media_type": ProblemKind(415, "The body must be application/json"),
    "validation_failed": ProblemKind(422, "The request is not valid"),
    "unknown_sku": ProblemKind(422, "There is no such item"),
    "item_inactive": ProblemKind(422, "The item is not for sale"),
    "currency_mismatch": ProblemKind(422, "The item is not sold in this currency"),
    "idempotency_key_reused": ProblemKind(422, "The key was used with another request"),
    "card_number_refused": ProblemKind(422, "Card numbers are not accepted here"),
    "internal_error": ProblemKind(500, "Something went wrong on our side", retryable=True),
    "overloaded": ProblemKind(503, "Too much is going on at the moment", retryable=True),
    "unavailable": ProblemKind(503, "A part of the service does not answer", retryable=True),
}


class Problem(EcomError):
    """An answer to a client: a stable `code`, and a `detail` that says what to do next.

    `members` are extension members of the problem document (RFC 9457 §3.2). Nothing in a problem
    repeats what the client sent: it could be a card number.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        retry_after_s: int | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.kind = PROBLEM_KINDS[code]
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.members = dict(members or {})
