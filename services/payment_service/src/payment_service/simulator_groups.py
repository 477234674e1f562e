"""Group commit: calls of many threads that come together are answered by one statement.

A provider with one commit for each call could not keep up with its customers; databases do the same with the
commits of their sessions.
"""

import threading
from collections import deque
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
        """`ask` gives one answer for each call, in order; it is never called by two threads at once."""
        self._ask = ask
        self._patience_s = patience_s
        self._waiting: deque[tuple[C, Future[R]]] = deque()
        self._turn = threading.Lock()

    def __call__(self, call: C) -> R:
        """The call's own answer. Raises what asking raised; ProviderTimeout when the turn does not come in time."""
        answer: Future[R] = Future()
        self._waiting.append((call, answer))
        if not self._turn.acquire(timeout=self._patience_s):
            # The next turn asks for it nonetheless, as a provider may do what its caller has given up.
            raise ProviderTimeout("no answer in time")
        try:
            if not answer.done():
                self._answer([self._waiting.popleft() for _ in range(len(self._waiting))])
        finally:
            self._turn.release()
        return answer.result()

    def _answer(self, group: Sequence[tuple[C, Future[R]]]) -> None:
        try:
            answers = self._ask([call for call, _ in group])
        except BaseException as error:
            # One that the book cannot take must not fail the others; but when it is away, it is so for all.
            if len(group) > 1 and classify(error) is Trouble.UNEXPECTED:
                for one in group:
                    self._answer([one])
                return
            for _, answer in group:
                answer.set_exception(error)
            return
        for (_, answer), value in zip(group, answers, strict=True):
            answer.set_result(value)
