"""Every alert has its page, every page its alerts, and whatever they name exists."""

import re
import shlex
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import ecom_audit.__main__ as auditor
import pytest
import yaml
from ecom_common import operations
from ecom_local.operations import route
from inventory_service.operations import COMMANDS as INVENTORY
from order_service.diagnosis import Trouble
from order_service.operations import COMMANDS as ORDER
from payment_service.operations import COMMANDS as PAYMENT

from tests.checks.files import REPOSITORY, project_files
from tests.checks.markdown import code_blocks, code_spans

RUNBOOK: Final = REPOSITORY / "docs" / "runbook"
ALERTS: Final = REPOSITORY / "infra" / "observability" / "alerts.yml"
PAGES: Final = sorted(path for path in RUNBOOK.glob("*.md") if path.name != "README.md")
COMMANDS: Final = {"order": ORDER, "inventory": INVENTORY, "payment": PAYMENT}

_METRIC: Final = re.compile(r"\becom_\w+")
_DEFINED: Final = re.compile(r"\b(Counter|Gauge|Histogram)\(\s*\"(ecom_\w+)\"")
_LABEL: Final = re.compile(r"ecom_\w+\{(\w+)=\"(\w+)\"\}")


def _groups() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"]
    return groups


def _rules() -> list[dict[str, Any]]:
    return [rule for group in _groups() for rule in group["rules"]]


def _sources() -> str:
    ours = [path for path in project_files() if path.parts[0] in ("libs", "services")]
    return "\n".join((REPOSITORY / path).read_text() for path in ours if path.suffix == ".py")


def _metrics() -> set[str]:
    """As Prometheus will know them."""
    names = set()
    for kind, name in _DEFINED.findall(_sources()):
        names |= {f"{name.removesuffix('_total')}_total"} if kind == "Counter" else {name}
        if kind == "Histogram":
            names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    return names


@pytest.mark.parametrize("rule", _rules(), ids=lambda rule: rule["alert"])
def test_an_alert_watches_metrics_that_there_are_and_has_a_page(rule: dict[str, Any]) -> None:
    named = set(_METRIC.findall(rule["expr"]))
    assert named
    assert named <= _metrics()
    for _, value in _LABEL.findall(rule["expr"]):
        assert f'"{value}"' in _sources()
    page = REPOSITORY / rule["annotations"]["runbook"]
    assert page in PAGES
    assert f"`{rule['alert']}`" in page.read_text()
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]


def test_every_page_has_alerts_and_its_line_in_the_index() -> None:
    index = (RUNBOOK / "README.md").read_text()
    assert [group["name"] for group in _groups()] == re.findall(
        r"^\| \[.*\]\((.*)\.md\)", index, re.M
    )
    assert {path.stem for path in PAGES} == {group["name"] for group in _groups()}
    for group in _groups():
        row = next(line for line in index.splitlines() if f"({group['name']}.md)" in line)
        assert all(f"`{rule['alert']}`" in row for rule in group["rules"])
    assert len({rule["alert"] for rule in _rules()}) == len(_rules())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_says_what_it_means_shows_it_ends_it_and_is_safe(page: Path) -> None:
    headings = re.findall(r"^## (.*)", page.read_text(), re.MULTILINE)
    assert headings == [
        "What it means", "Which command shows it", "Which command ends it", "What is safe",
    ]  # fmt: skip


@pytest.mark.parametrize("page", [*PAGES, RUNBOOK / "README.md"], ids=lambda path: path.stem)
def test_every_metric_that_a_page_names_exists(page: Path) -> None:
    named = {name for span in code_spans(page.read_text()) for name in _METRIC.findall(span)}
    assert named <= _metrics()


def _lines(script: str) -> list[str]:
    """Every command line of a script that the runbook shows, with values for what is to be filled in."""
    filled = []
    for page in [*PAGES, RUNBOOK / "README.md"]:
        text = page.read_text()
        for line in [*code_blocks(text), *code_spans(text)]:
            if line.startswith(f"scripts/{script} ") and "COMMAND" not in line:
                own = line.replace("ORDER", str(uuid4())).replace("…", "x")
                filled.append(own.removeprefix(f"scripts/{script} "))
    return sorted(set(filled))


@pytest.mark.parametrize("line", _lines("ops"))
def test_every_operators_command_of_the_runbook_is_one(line: str) -> None:
    services, command = route(shlex.split(line))
    for service in services:
        parser = operations.make_parser(service, COMMANDS[service], command)
        options = parser.parse_args(command)
        assert options.run in [known.run for known in COMMANDS[service]]


@pytest.mark.parametrize("line", _lines("audit"))
def test_every_command_of_the_auditor_in_the_runbook_is_one(line: str) -> None:
    arguments = shlex.split(line)
    auditor.make_parser(arguments).parse_args(arguments)


def test_the_page_of_stuck_orders_knows_every_trouble() -> None:
    spans = code_spans((RUNBOOK / "stuck-order.md").read_text())
    assert {trouble.value for trouble in Trouble} - {"resolved"} <= set(spans)
