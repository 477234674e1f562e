"""The documents name what exists."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from ecom_common.flyway import FlywaySettings
from ecom_common.settings import KafkaSettings
from ecom_local.ports import Ports, variable
from inventory_service.settings import Settings as InventorySettings
from order_service.settings import Settings as OrderSettings
from payment_service.settings import Settings as PaymentSettings
from pydantic_settings import BaseSettings

from tests.checks.files import REPOSITORY, project_files, texts
from tests.checks.markdown import code_blocks, code_spans, documents

README: Final = REPOSITORY / "README.md"
ARCHITECTURE: Final = REPOSITORY / "ARCHITECTURE.md"
MOST_LINES: Final = 200

_SCRIPT = re.compile(r"(?<![\w/.-])scripts/([a-z][\w.-]*)")
_PLACEHOLDER = re.compile(r"<[^>]*>|…|\*+")
_DEFINITION = re.compile(r"([A-Za-z_][\w.]*)\(\)")
_SQL_FUNCTION = re.compile(r"CREATE FUNCTION (\w+)\(")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][\w.-]*)", re.MULTILINE)
_TOP = ["services", "libs", "infra", "base-images", "scripts", "tests", ".ci"]


def _texts() -> dict[Path, str]:
    return {path: (REPOSITORY / path).read_text() for path in documents()}


def _scripts() -> list[str]:
    code = [line for text in _texts().values() for line in code_spans(text) + code_blocks(text)]
    return sorted({name for line in code for name in _SCRIPT.findall(line)})


def _paths() -> list[tuple[str, str]]:
    """Document and span, for what looks like a path from the repository's root."""
    return [
        (str(document), span)
        for document, text in _texts().items()
        for span in code_spans(text)
        if "/" in span and " " not in span and span.split("/")[0] in _TOP
    ]


def _direct_dependencies() -> list[str]:
    files = [path for path in project_files() if path.name == "requirements.in"]
    assert len(files) == 3
    return sorted(
        {name for path in files for name in _REQUIREMENT.findall((REPOSITORY / path).read_text())}
    )


@cache
def _definitions() -> frozenset[str]:
    """Every class, function and method of the code, also as `module.name` and `Class.name`."""
    names: set[str] = set()
    for path, text in texts(project_files()):
        if path.suffix == ".py":
            names |= _defined_in(path.stem, ast.parse(text).body)
        elif path.suffix == ".sql":
            names.update(_SQL_FUNCTION.findall(text))
    return frozenset(names)


def _defined_in(owner: str, body: list[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names |= {node.name, f"{owner}.{node.name}"}
        if isinstance(node, ast.ClassDef):
            names |= _defined_in(node.name, node.body)
    return names


@cache
def _everything_else() -> str:
    """The paths and texts of all files that are no documents."""
    files = texts(project_files())
    return "\n".join(f"{path}\n{text}" for path, text in files if path.suffix != ".md")


def _variables(kind: type[BaseSettings]) -> list[str]:
    prefix = str(kind.model_config.get("env_prefix", ""))
    return [f"{prefix}{name}".upper() for name in kind.model_fields]


@pytest.mark.parametrize("name", _scripts())
def test_every_script_that_is_named_exists_and_explains_itself(name: str) -> None:
    script = REPOSITORY / "scripts" / name
    assert script.is_file()
    result = subprocess.run(
        [script, "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert f"scripts/{name}" in result.stdout


def test_every_script_is_named_in_a_document() -> None:
    scripts = {path.name for path in project_files() if path.parent == Path("scripts")}
    assert scripts - set(_scripts()) == set()


@pytest.mark.parametrize(("document", "span"), _paths())
def test_every_path_that_is_named_exists(document: str, span: str) -> None:
    path, _, test = span.partition("::")
    found = list(REPOSITORY.glob(_PLACEHOLDER.sub("*", path.rstrip("/"))))
    assert found, f"{document} names {path}"
    assert not test or f"def {test}(" in found[0].read_text(), f"{document} names {span}"


def test_every_function_that_the_architecture_names_exists() -> None:
    named = [
        match[1]
        for span in code_spans(ARCHITECTURE.read_text())
        if (match := _DEFINITION.fullmatch(span))
    ]
    assert len(named) > 20, "the traces name functions as `name()`"
    assert [name for name in named if ".".join(name.split(".")[-2:]) not in _definitions()] == []


def test_every_name_in_the_architecture_occurs_in_the_code() -> None:
    names = [
        span.removesuffix("()").removesuffix(".py").split(".")[-1]
        for span in code_spans(ARCHITECTURE.read_text())
        if " " not in span and "/" not in span
    ]
    assert [name for name in names if name not in _everything_else()] == []


def test_the_architecture_is_short() -> None:
    assert len(ARCHITECTURE.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("dependency", _direct_dependencies())
def test_every_direct_dependency_has_its_reason_in_the_architecture(dependency: str) -> None:
    assert dependency in code_spans(ARCHITECTURE.read_text())


@pytest.mark.parametrize(
    "kind", [OrderSettings, InventorySettings, PaymentSettings, KafkaSettings, FlywaySettings]
)
def test_every_setting_has_its_line_in_the_readme(kind: type[BaseSettings]) -> None:
    named = {name for span in code_spans(README.read_text()) for name in span.split(", ")}
    assert [name for name in _variables(kind) if name not in named] == []


def test_every_port_stands_in_the_readme_with_its_variable() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| ")]
    for name, port in Ports().to_dict().items():
        assert any(str(port) in row and f"`{variable(name)}`" in row for row in rows), name
