"""Where the relay reads from, and which acknowledged rows it may forget."""

from collections import defaultdict
from dataclasses import dataclass, field

from ecom_common.relay import (
    FULL_SCAN_EVERY_S,
    LATE_COMMIT_S,
    PARKED_S,
    _in_order,
    _LowWater,
    _Row,
)
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def a_row(row_id: int, key: str = "k", topic: str = "t") -> _Row:
    return _Row(row_id, topic, key, b"")


def test_the_first_read_and_one_a_second_are_full_scans() -> None:
    clock = Clock()
    low_water = _low_water_at(50, clock)
    clock.now += FULL_SCAN_EVERY_S
    assert low_water.bound() == 0
    assert low_water.bound() == 50
    clock.now += FULL_SCAN_EVERY_S - 0.01
    assert low_water.bound() == 50
    clock.now += 0.01
    assert low_water.bound() == 0


def test_ids_become_the_lower_bound_only_when_no_transaction_can_still_commit_below_them() -> None:
    clock = Clock()
    low_water = _LowWater(clock)
    low_water.bound()
    low_water.saw(50)
    clock.now += LATE_COMMIT_S
    low_water.bound()
    assert low_water.bound() == 0
    clock.now += FULL_SCAN_EVERY_S
    low_water.bound()
    assert low_water.bound() == 50


def test_what_was_left_behind_is_read_again_at_once() -> None:
    clock = Clock()
    low_water = _low_water_at(50, clock)
    low_water.left(30)
    assert low_water.bound() == 29
    low_water.saw(60)
    low_water.left(31)
    assert low_water.bound() == 29
    clock.now += 2 * LATE_COMMIT_S
    low_water.bound()
    assert low_water.bound() == 29


def test_rows_are_forgotten_up_to_the_first_gap_of_their_key() -> None:
    rows = [a_row(1, "a"), a_row(2, "b"), a_row(3, "a"), a_row(4, "a"), a_row(5, "b")]
    assert [row.id for row in _in_order(rows, {1, 2, 4, 5})] == [1, 2, 5]
    assert _in_order(rows, set()) == []
    assert _in_order(rows, {1, 2, 3, 4, 5}) == rows


def test_the_same_key_on_another_topic_has_gaps_of_its_own() -> None:
    rows = [a_row(1, "a", "x"), a_row(2, "a", "y")]
    assert [row.id for row in _in_order(rows, {2})] == [2]


def _low_water_at(bound: int, clock: Clock) -> _LowWater:
    """One that has seen `bound` long enough ago, a moment after a full scan."""
    low_water = _LowWater(clock)
    low_water.saw(bound)
    clock.now += LATE_COMMIT_S + FULL_SCAN_EVERY_S
    assert low_water.bound() == 0
    assert low_water.bound() == bound
    return low_water


@dataclass
class Model:
    """The relay's loop over an outbox in memory: the same decisions, no database and no broker.

    A key's rows are committed in the order of their ids, because they are inserted under the lock of
    its aggregate; different keys commit in any order, at most LATE_COMMIT_S late.
    """

    batch: int = 4
    clock: Clock = field(default_factory=Clock)
    last_id: int = 0
    uncommitted: dict[str, tuple[int, float]] = field(default_factory=dict)
    outbox: dict[int, str] = field(default_factory=dict)
    parked: dict[str, tuple[float, int]] = field(default_factory=dict)
    committed: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    delivered: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.low_water = _LowWater(self.clock)

    def insert(self, key: str) -> None:
        if key not in self.uncommitted:
            self.last_id += 1
            self.uncommitted[key] = self.last_id, self.clock.now

    def commit(self, key: str) -> None:
        if key in self.uncommitted:
            row_id, _ = self.uncommitted.pop(key)
            self.outbox[row_id] = key
            self.committed[key].append(row_id)

    def pass_(self, seconds: float) -> None:
        self.clock.now += seconds
        for key, (_, inserted_at) in list(self.uncommitted.items()):
            if self.clock.now - inserted_at > LATE_COMMIT_S - 1:
                self.commit(key)

    def round(self, *, failing: set[str], unsendable: set[str]) -> None:
        for key, (until, row_id) in list(self.parked.items()):
            if until <= self.clock.now:
                del self.parked[key]
                self.low_water.left(row_id)
        bound = self.low_water.bound()
        rows = [
            a_row(row_id, key)
            for row_id, key in sorted(self.outbox.items())
            if row_id > bound and key not in self.parked
        ][: self.batch]
        if rows:
            self.low_water.saw(rows[-1].id)
        sent: set[int] = set()
        for row in rows:
            if row.key in unsendable:
                self.parked.setdefault(row.key, (self.clock.now + PARKED_S, row.id))
            elif row.key not in failing and row.key not in self.parked:
                sent.add(row.id)
                self.delivered[row.key].append(row.id)
        for row in (done := _in_order(rows, sent)):
            del self.outbox[row.id]
        if len(done) < len(rows):
            self.low_water.left(next(row.id for row in rows if row.id in self.outbox))


KEYS = st.sampled_from("abcde")
STEPS: st.SearchStrategy[tuple[str, object]] = st.one_of(
    st.tuples(st.just("insert"), KEYS),
    st.tuples(st.just("commit"), KEYS),
    st.tuples(st.just("pass"), st.sampled_from([0.1, 1.0, 5.0, 16.0, 61.0])),
    st.tuples(st.just("round"), st.tuples(st.frozensets(KEYS), st.frozensets(KEYS, max_size=1))),
    st.tuples(st.just("round"), st.just((frozenset(), frozenset()))),
)


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=60))
def test_whatever_fails_and_however_late_rows_commit_none_is_lost_or_overtaken(
    steps: list[tuple[str, object]],
) -> None:
    model = Model()
    for step, argument in steps:
        match step, argument:
            case "insert", str(key):
                model.insert(key)
            case "commit", str(key):
                model.commit(key)
            case "pass", float(seconds):
                model.pass_(seconds)
            case "round", (frozenset() as failing, frozenset() as unsendable):
                model.round(failing=set(failing), unsendable=set(unsendable))
    model.pass_(PARKED_S + LATE_COMMIT_S)
    for _ in range(len(steps) + 2):
        model.pass_(FULL_SCAN_EVERY_S)
        model.round(failing=set(), unsendable=set())
    assert model.outbox == {}
    for key, ids in model.committed.items():
        first_deliveries = list(dict.fromkeys(model.delivered[key]))
        assert first_deliveries == ids, "every row of a key, in the order of its commits"
