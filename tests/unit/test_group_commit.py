"""Calls of many threads in one statement: who goes together, and who fails with whom."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
from payment_service.provider import ProviderTimeout
from payment_service.simulator_groups import GroupCommit
from psycopg2 import OperationalError

from tests.support.waiting import eventually


class Book:
    """Answers a call by doubling it; the first statement takes until it is released."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.begun = threading.Event()
        self.released = threading.Event()

    def ask(self, calls: Sequence[int]) -> list[int]:
        self.groups.append(list(calls))
        if len(self.groups) == 1:
            self.begun.set()
            assert self.released.wait(10)
        return [2 * call for call in calls]


def together(book: Book, grouped: GroupCommit[int, int], calls: Sequence[int]) -> list[Future[int]]:
    """The calls, which come while the statement of call 0 runs; its answer is the first."""
    with ThreadPoolExecutor(len(calls) + 1) as pool:
        answers = [pool.submit(grouped, 0)]
        assert book.begun.wait(10)
        answers += [pool.submit(grouped, call) for call in calls]
        eventually(lambda: len(grouped._waiting) == len(calls))
        book.released.set()
        wait(answers)
    return answers


def test_what_comes_meanwhile_goes_together_and_gets_its_own_answers() -> None:
    book = Book()
    answers = together(book, GroupCommit(book.ask, patience_s=10), [1, 2, 3])
    assert [answer.result() for answer in answers] == [0, 2, 4, 6]
    assert [sorted(group) for group in book.groups] == [[0], [1, 2, 3]]


def test_a_call_that_the_book_cannot_take_fails_alone() -> None:
    book = Book()

    def ask(calls: Sequence[int]) -> list[int]:
        if 2 in calls:
            raise ValueError("not this one")
        return book.ask(calls)

    first, one, two, three = together(book, GroupCommit(ask, patience_s=10), [1, 2, 3])
    assert [first.result(), one.result(), three.result()] == [0, 2, 6]
    with pytest.raises(ValueError, match="not this one"):
        two.result()


def test_when_the_book_is_away_everybody_hears_so_at_once() -> None:
    book = Book()
    tries: list[Sequence[int]] = []

    def ask(calls: Sequence[int]) -> list[int]:
        tries.append(calls)
        if 0 not in calls:
            raise OperationalError("the server is gone")
        return book.ask(calls)

    _, *answers = together(book, GroupCommit(ask, patience_s=10), [1, 2, 3])
    for answer in answers:
        with pytest.raises(OperationalError):
            answer.result()
    assert len(tries) == 2


def test_whose_turn_does_not_come_in_time_gets_a_time_out_and_is_not_asked_for() -> None:
    book = Book()
    grouped = GroupCommit(book.ask, patience_s=0.05)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(grouped, 0)
        assert book.begun.wait(10)
        with pytest.raises(ProviderTimeout):
            grouped(1)
        book.released.set()
        assert first.result() == 0
    assert grouped(2) == 4
    assert book.groups == [[0], [2]]


def test_what_is_being_asked_when_the_patience_is_over_is_still_answered() -> None:
    released = threading.Event()

    def ask(calls: Sequence[int]) -> list[int]:
        if 0 in calls:
            assert released.wait(10)
        else:
            time.sleep(1.2)
        return [2 * call for call in calls]

    grouped = GroupCommit(ask, patience_s=1)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(grouped, 0)
        eventually(lambda: grouped._is_asking)
        others = [pool.submit(grouped, call) for call in (1, 2)]
        eventually(lambda: len(grouped._waiting) == 2)
        released.set()
        assert [call.result() for call in (first, *others)] == [0, 2, 4]


def test_an_answer_that_is_missing_is_an_error_and_nobody_waits_for_it() -> None:
    grouped: GroupCommit[int, int] = GroupCommit(lambda calls: [], patience_s=1)
    with pytest.raises(AssertionError, match="one answer for each call"):
        grouped(1)


def test_who_is_stopped_while_asking_for_others_leaves_none_of_them_waiting() -> None:
    class Stopped(BaseException):
        pass

    book = Book()

    def ask(calls: Sequence[int]) -> list[int]:
        if 1 in calls:
            raise Stopped
        return book.ask(calls)

    grouped = GroupCommit(ask, patience_s=10)
    first, *others = together(book, grouped, [1, 2])
    assert first.result() == 0
    assert [type(call.exception()) for call in others] == [Stopped, Stopped]
    assert grouped(3) == 6


def test_a_call_that_comes_alone_waits_for_nobody() -> None:
    asked: list[Sequence[str]] = []

    def ask(calls: Sequence[str]) -> Sequence[str]:
        asked.append(calls)
        return calls

    grouped: Callable[[str], str] = GroupCommit(ask, patience_s=0)
    assert [grouped("a"), grouped("b")] == ["a", "b"]
    assert asked == [["a"], ["b"]]
