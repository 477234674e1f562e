"""The command that writes, checks and releases the schemas, in a folder of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ecom_contracts.messages import MESSAGES
from ecom_contracts.schemas import main, message_schema


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with everything written and released."""
    assert main(["--root", str(tmp_path), "--write"]) == 0
    assert main(["--root", str(tmp_path), "--release"]) == 0
    return tmp_path


@pytest.fixture
def complaints(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], list[str]]:
    def run(action: str) -> list[str]:
        capsys.readouterr()
        status = main(["--root", str(root), action])
        lines = capsys.readouterr().err.splitlines()
        assert status == (1 if lines else 0)
        return lines

    return run


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text(encoding="utf-8"))
    change(document)
    file.write_text(json.dumps(document), encoding="utf-8")


def test_what_was_just_written_and_released_passes(
    complaints: Callable[[str], list[str]],
) -> None:
    assert complaints("--check") == []


def test_a_fresh_folder_lacks_everything_and_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(tmp_path), "--check"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(MESSAGES) + 1
    assert all(line.endswith("(run: python -m ecom_contracts.schemas --write)") for line in lines)


def test_drift_is_named_and_writing_repairs_it(
    root: Path, complaints: Callable[[str], list[str]]
) -> None:
    (root / "schemas" / "stock.reserve.v1.json").write_text("{}", encoding="utf-8")
    (root / "schemas" / "parcel.shipped.v1.json").write_text("{}", encoding="utf-8")
    (root / "asyncapi.json").unlink()
    told = "\n".join(complaints("--check"))
    assert "schemas/stock.reserve.v1.json: differs from the code" in told
    assert "schemas/parcel.shipped.v1.json: no message has it any more" in told
    assert "asyncapi.json: missing" in told
    assert complaints("--write") == []
    assert complaints("--check") == []


def test_a_field_that_the_baseline_promised_and_the_code_lost_is_refused(
    root: Path, complaints: Callable[[str], list[str]]
) -> None:
    baseline = root / "baseline" / "stock.commit.v1.json"
    rewrite(baseline, lambda s: s["properties"]["data"]["properties"].update(note={}))
    (problem,) = complaints("--check")
    assert problem.startswith("stock.commit.v1 $.data.note: the field was removed")
    assert problem.endswith("(leave this version as it was and add a new major version)")


def test_a_type_that_vanished_is_refused(
    root: Path, complaints: Callable[[str], list[str]]
) -> None:
    (root / "baseline" / "stock.count.v1.json").write_text("{}", encoding="utf-8")
    (problem,) = complaints("--check")
    assert problem.startswith("stock.count.v1: the type was removed")


def test_a_type_that_is_new_since_the_baseline_is_fine(
    root: Path, complaints: Callable[[str], list[str]]
) -> None:
    (root / "baseline" / "stock.commit.v1.json").unlink()
    assert complaints("--check") == []


def test_a_breaking_change_cannot_be_released(
    root: Path, complaints: Callable[[str], list[str]]
) -> None:
    baseline = root / "baseline" / "stock.commit.v1.json"
    rewrite(baseline, lambda s: s["properties"]["data"]["properties"].update(note={}))
    before = baseline.read_text(encoding="utf-8")
    assert complaints("--release")
    assert baseline.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("type_", MESSAGES)
def test_a_schema_refers_to_nothing_outside_itself_and_every_field_is_explained(
    type_: str,
) -> None:
    schema = message_schema(MESSAGES[type_])
    assert "$ref" not in json.dumps(schema)
    assert schema["description"]
    for part in (schema["properties"], schema["properties"]["data"]["properties"]):
        for name, field in part.items():
            assert name == "data" or field.get("description"), name
