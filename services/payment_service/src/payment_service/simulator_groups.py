"""Group commit: calls of many threads that come together are answered by one statement.

A provider with one commit for each call could not keep up with its customers; databases do the same with the
commits of their sessions.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from ecom_common.batch import Failed
from ecom_common.database import Trouble, classify

from payment_service.provider import ProviderTimeout

C = TypeVar("C")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Call(Generic[C, R]):
    asks: C
    outcome: R | Failed | None = None
    is_done: bool = False


class GroupCommit(Generic[C, R]):
    """Whoever comes while the others' statement runs waits for its end; the first of those then asks for all.

    Nobody waits for company: a call that comes alone is asked at once.
    """

    def __init__(self, ask: Callable[[Sequence[C]], Sequence[R]], *, patience_s: float) -> None:
        """`ask` gives one answer for each call, in order; no two threads are in it at once."""
        self._ask = ask
        self._patience_s = patience_s
        self._waiting: list[_Call[C, R]] = []
        self._is_asking = False
        self._changed = threading.Condition()

    def __call__(self, asks: C) -> R:
        """The call's own answer. Raises what asking raised; ProviderTimeout when its turn, or then its answer, does not
        come within the patience."""
        mine: _Call[C, R] = _Call(asks)
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: mine.is_done or not self._is_asking, self._patience_s)
            if not mine.is_done and self._is_asking:
                self._wait_no_longer(mine)
            if mine.is_done:
                return _answer_of(mine)
            group, self._waiting = self._waiting, []
            self._is_asking = True
        try:
            outcomes = self._outcomes([call.asks for call in group])
            for call, outcome in zip(group, outcomes, strict=True):
                call.outcome, call.is_done = outcome, True
        finally:
            with self._changed:
                self._is_asking = False
                self._changed.notify_all()
        return _answer_of(mine)

    def _wait_no_longer(self, call: _Call[C, R]) -> None:
        """For its turn; but what is being asked may still be answered."""
        if call in self._waiting:
            self._waiting.remove(call)
        elif self._changed.wait_for(lambda: call.is_done, self._patience_s):
            return
        raise ProviderTimeout("no answer in time")

    def _outcomes(self, calls: Sequence[C]) -> list[R | Failed]:
        try:
            answers = list(self._ask(calls))
            assert len(answers) == len(calls), "one answer for each call"
            return [*answers]
        except Exception as error:
            # When the book is away it is so for all; but one that it cannot take must not fail the others.
            if len(calls) == 1 or classify(error) is not Trouble.UNEXPECTED:
                return [Failed(error) for _ in calls]
        return [outcome for call in calls for outcome in self._outcomes([call])]


def _answer_of(call: _Call[C, R]) -> R:
    if isinstance(call.outcome, Failed):
        raise call.outcome.error
    return cast(R, call.outcome)
