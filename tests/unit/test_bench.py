"""The bench's arithmetic: rates, percentiles, backlog, and what it calls wrong."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.load import report
from tests.load.measuring import Snapshot
from tests.load.plan import Plan, Sample
from tests.load.published import Publications
from tests.load.running import Percentiles, Result, Window, count, weigh, wrong_answers
from tests.load.scenarios import HOT_BUYERS, SCENARIOS, Shop, SoldOut

NOTHING = Snapshot(
    cpu_s={},
    statements={},
    wal_bytes={},
    all_wal_bytes=0,
    deadlocks=0,
    whole_reads={"orderdb.a": 2},
)
WINDOW = Window(begin=10.0, end=20.0, before=NOTHING, after=NOTHING)


def a_post(at: float, order_id: str, seconds: float = 0.01, status: int = 201) -> Sample:
    return Sample("post", at, seconds, status, order_id)


def test_percentiles_are_values_that_were_measured() -> None:
    found = Percentiles.of_seconds([number / 1000 for number in range(1, 101)])
    assert found == Percentiles(p50=51.0, p95=96.0, p99=100.0)
    assert Percentiles.of_seconds([]) is None
    assert Percentiles.of_seconds([0.002]) == Percentiles(2.0, 2.0, 2.0)


def test_only_what_happened_in_the_measured_time_counts() -> None:
    samples = [a_post(9.0, "early"), a_post(11.0, "a"), a_post(12.0, "b"), a_post(21.0, "late")]
    told = Publications(
        finals={
            "early": ("confirmed", 11.0),  # its confirmation is within, and took two seconds
            "a": ("confirmed", 11.5),
            "b": ("rejected", 12.5),
            "late": ("confirmed", 22.0),
        }
    )
    result = Result("uniform", 1, None)
    count(result, samples, told, WINDOW)
    assert (result.accepted_per_s, result.confirmed_per_s, result.decided_per_s) == (0.2, 0.2, 0.3)
    assert result.confirmed == Percentiles(2000.0, 2000.0, 2000.0)
    assert result.orders == 4
    assert result.makespan_s == 13.0


def test_the_backlog_is_what_was_accepted_and_is_not_final() -> None:
    samples = [a_post(number, str(number), 0.5) for number in range(8, 20)]
    told = Publications(finals={str(n): ("confirmed", n + 3.25) for n in range(8, 20)})
    result = Result("uniform", 1, None)
    count(result, samples, told, WINDOW)
    assert result.pending == (2, 3, 3)


def test_costs_are_for_each_order_that_was_decided() -> None:
    told = Publications(
        finals={str(n): ("confirmed", 11.0) for n in range(10)},
        messages=Counter({"orders.events": 20}),
        bytes=Counter({"orders.events": 9_000}),
    )
    after = Snapshot(
        cpu_s={"order-api": 0.05},
        statements={"orderdb": 300},
        wal_bytes={"orderdb": 5_000},
        all_wal_bytes=8_000,
        deadlocks=1,
        whole_reads={"orderdb.a": 2, "orderdb.b": 3},
    )
    result = Result("uniform", 1, None, decided_per_s=1.0)
    weigh(result, told, Window(10.0, 20.0, NOTHING, after))
    assert result.cpu_ms == {"order-api": 5.0}
    assert result.statements == {"orderdb": 30.0}
    assert result.whole_reads == {"orderdb.b": 3}
    assert (result.messages, result.message_bytes, result.deadlocks) == (2.0, 900.0, 1)


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        (a_post(11.0, "gone"), "1 acknowledged orders have not ended, as gone"),
        (a_post(11.0, "", status=500), "answers with [500]"),
    ],
)
def test_a_wrong_answer_is_named(sample: Sample, problem: str) -> None:
    assert list(wrong_answers([sample], Publications())) == [problem]


def test_refusals_are_no_wrong_answers() -> None:
    told = Publications(finals={"a": ("confirmed", 12.0)})
    samples = [a_post(11.0, "", status=503), a_post(11.5, "a")]
    assert list(wrong_answers(samples, told)) == []


def test_the_table_has_medians_and_leaves_out_what_nobody_measured() -> None:
    runs = [[Result("uniform", 8, None, confirmed_per_s=rate) for rate in (100.0, 300.0, 200.0)]]
    text = report.table(runs)
    assert "| confirmed/s | 200 |" in text
    assert "GET/s" not in text


def test_a_backlog_that_grows_is_told() -> None:
    grows = Result("uniform", 8, None, decided_per_s=100, seconds=20, pending=(0, 900, 900))
    flat = Result("uniform", 8, None, decided_per_s=100, seconds=20, pending=(500, 520, 600))
    assert report.remarks([[grows], [flat]]) == [
        "uniform, 8 clients: the backlog has grown by 900 orders"
    ]


def test_the_tables_go_between_the_markers_of_a_document(tmp_path: Path) -> None:
    document = tmp_path / "speed.md"
    document.write_text(f"# Speed\n\n{report.BEGIN}\n\nold\n\n{report.END}\n\nmore\n")
    report.write_markdown(document, report.text([[Result("uniform", 8, None)]], None))
    written = document.read_text()
    assert "| confirmed/s | 0 |" in written
    assert "old" not in written
    assert written.endswith("more\n")


class FakeTill:
    """Accepts everything."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, dict[str, int]]] = []
        self.reads = 0

    async def place(
        self, lines: dict[str, int], *, customer: int, key: str, due: float | None, kind: str
    ) -> str:
        self.orders.append((key, dict(lines)))
        return f"order of {key}"

    async def read(self, order_id: str, *, customer: int, due: float | None) -> None:
        self.reads += 1


async def _turns(scenario: str, count: int, hot_skus: int = 0) -> FakeTill:
    till = FakeTill()
    shop = Shop([f"SKU-{n}" for n in range(100)], [f"HOT-{n}" for n in range(hot_skus)], 5)
    source = random.Random(1)
    for _ in range(count):
        await SCENARIOS[scenario].turn(till, shop, source, None)  # type: ignore[arg-type]
    return till


def test_scenarios_do_what_they_say() -> None:
    assert {len(lines) for _, lines in asyncio.run(_turns("uniform", 9)).orders} == {2}
    assert {len(lines) for _, lines in asyncio.run(_turns("baskets", 9)).orders} == {10}
    twice = asyncio.run(_turns("retried", 9)).orders
    assert Counter(Counter(key for key, _ in twice).values()) == {2: 9}
    reads = asyncio.run(_turns("mix", 1_000))
    assert 750 < reads.reads < 850
    hot = asyncio.run(_turns("hot", HOT_BUYERS + 1, 2)).orders
    assert [lines for _, lines in hot[-2:]] == [{"HOT-0": 1}, {"HOT-1": 1}]
    with pytest.raises(SoldOut):
        asyncio.run(_turns("hot", 1, 0))


def test_a_plan_survives_its_journey() -> None:
    plan = Plan("uniform", ["http://a"], ["t"], ["s"], [], 8, 1.0, 2.0, 7, rate=50.0)
    assert Plan.load(plan.dump()) == plan
