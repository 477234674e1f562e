"""Group commit: calls of many threads that come together are answered by one statement.

A provider with one commit for each call could not keep up with its customers; databases do the same with the
commits of their sessions.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from ecom_common.database import Trouble, classify

from payment_service.provider import ProviderTimeout

C = TypeVar("C")
R = TypeVar("R")


class GroupCommit(Generic[C, R]):
    """Whoever comes while the others' statement runs waits for its end; the first of those then asks for all.

    Nobody waits for company: a call that comes alone is asked at once.
    """

    def __init__(self, ask: Callable[[Sequence[C]], Sequence[R]], *, patience_s: float) -> None:
        """`ask` gives one answer for each call, in order; no two threads are in it at once."""
        self._ask = ask
        self._patience_s = patience_s
        self._waiting: list[tuple[C, Future[R]]] = []
        self._is_asking = False
        self._changed = threading.Condition()

    def __call__(self, call: C) -> R:
        """The call's own answer. Raises what asking raised; ProviderTimeout when its turn, or then its answer, does not
        come within the patience."""
        answer: Future[R] = Future()
        mine = (call, answer)
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: answer.done() or not self._is_asking, self._patience_s)
            if not answer.done() and self._is_asking:
                self._wait_no_longer(mine)
            if answer.done():
                return answer.result()
            group, self._waiting = self._waiting, []
            self._is_asking = True
        self._answer(group)
        with self._changed:
            self._is_asking = False
            self._changed.notify_all()
        return answer.result()

    def _wait_no_longer(self, mine: tuple[C, Future[R]]) -> None:
        """For the turn; but what is being asked may still be answered."""
        if mine in self._waiting:
            self._waiting.remove(mine)
        elif self._changed.wait_for(mine[1].done, self._patience_s):
            return
        raise ProviderTimeout("no answer in time")

    def _answer(self, group: Sequence[tuple[C, Future[R]]]) -> None:
        """Every call of the group, whatever happens: nobody else will."""
        try:
            answers = list(self._ask([call for call, _ in group]))
            assert len(answers) == len(group), "one answer for each call"
        except BaseException as error:
            # When the book is away it is so for all; but one that it cannot take must not fail the others.
            is_ones_fault = isinstance(error, Exception) and classify(error) is Trouble.UNEXPECTED
            if is_ones_fault and len(group) > 1:
                for one in group:
                    self._answer([one])
            else:
                for _, answer in group:
                    answer.set_exception(error)
            return
        for (_, answer), value in zip(group, answers, strict=True):
            answer.set_result(value)
