"""The checks of our own find what they are for, and nothing else."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.checks.__main__ import program, run, timed
from tests.checks.contents import registry_addresses, secrets
from tests.checks.files import project_files
from tests.checks.markdown import anchors, broken_links, code_spans


def a_project(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def names(root: Path) -> list[str]:
    return [str(path) for path in project_files(root)]


FILES = {
    ".gitignore": ".venv/\n__pycache__/\n",
    "a.py": "",
    "b/c.md": "",
    ".venv/x": "",
    "b/__pycache__/y": "",
}
OURS = [".gitignore", "a.py", "b/c.md"]


class TestProjectFiles:
    def test_without_git_are_those_that_are_not_ignored(self, tmp_path: Path) -> None:
        assert names(a_project(tmp_path, FILES)) == OURS

    def test_without_a_git_program_are_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        assert names(a_project(tmp_path, FILES)) == OURS

    def test_with_git_are_the_tracked_ones_and_the_new_ones(self, tmp_path: Path) -> None:
        a_project(tmp_path, FILES)
        try:
            subprocess.run(["git", "init", "-q", tmp_path], check=True)
            subprocess.run(["git", "-C", tmp_path, "add", "a.py"], check=True)
        except FileNotFoundError:
            pytest.skip("there is no git here")
        assert names(tmp_path) == OURS


class TestLinks:
    @pytest.mark.parametrize(
        "link",
        [
            "[a](b.md)",
            "[a](b.md#two-words)",
            "[a](#here)",
            "[a](folder)",
            "[a](https://example.org/x#y)",
            "![a](b.md 'title')",
            "[a]: b.md",
            "<https://example.org>",
            "`[a](no.md)`",
            "```\n[a](no.md)\n```",
        ],
    )
    def test_that_lead_somewhere_are_fine(self, tmp_path: Path, link: str) -> None:
        files = {"a.md": f"# Here\n\n{link}\n", "b.md": "## Two words\n", "folder/x": ""}
        assert broken_links(a_project(tmp_path, files)) == []

    @pytest.mark.parametrize(
        "link",
        [
            "[a](no.md)",
            "[a](b.md#no)",
            "[a](#no)",
            "[a]()",
            "[a](../b.md)",
            "[a](https://)",
            "[a](htps://example.org)",
            "[a]: no.md",
            "[*a* [b]](no.md)",
        ],
    )
    def test_that_lead_nowhere_are_found_with_their_line(self, tmp_path: Path, link: str) -> None:
        files = {"a.md": f"# Here\n\n{link}\n", "b.md": "## Two words\n"}
        (finding,) = broken_links(a_project(tmp_path, files))
        assert finding.startswith("a.md:3: ")

    def test_to_headings_use_the_names_that_hosts_give_them(self) -> None:
        text = (
            "# What is `it`, then?\n## [A link](x.md) – and\n### Twice\n### Twice\n```\n# no\n```\n"
        )
        assert anchors(text) == {"what-is-it-then", "a-link--and", "twice", "twice-1"}


def test_code_spans_are_those_of_the_prose() -> None:
    assert code_spans("a `b` ``c`d``\n```sh\n`e`\n```\n`f`") == ["b", "c`d", "f"]


# Composed, so that this file passes the very check it tests.
@pytest.mark.parametrize(
    "text",
    [
        "https://files.python" + "hosted.org/packages/x.whl",
        "pull ghcr" + ".io/some/image",
        "repo1.mav" + "en.org",
        "https://mirror" + ".example.com/debian",
        "https://example.com/artifacts/" + "simple/",
        "https://our-" + "artifactory.example.com/",
    ],
)
def test_an_address_of_a_registry_is_found(tmp_path: Path, text: str) -> None:
    root = a_project(tmp_path, {"notes.txt": f"first\n{text}\n"})
    assert registry_addresses(root) == ["notes.txt:2: names a package registry"]


@pytest.mark.parametrize(
    "text", ["https://example.org/x", "org.postgresql:postgresql:42.7.7", "maven", "a simple/maven"]
)
def test_other_addresses_and_coordinates_are_none(tmp_path: Path, text: str) -> None:
    assert registry_addresses(a_project(tmp_path, {"notes.txt": text})) == []


@pytest.mark.parametrize("line", ["https://example.org/x.whl", "--index-url=x", "-i x"])
def test_requirements_do_not_say_where_packages_come_from(tmp_path: Path, line: str) -> None:
    root = a_project(tmp_path, {"tests/requirements.txt": f"pytest==9.2.0\n{line}\n"})
    assert registry_addresses(root) == ["tests/requirements.txt:2: says where packages come from"]


def test_locks_that_name_their_registry_are_refused(tmp_path: Path) -> None:
    assert len(registry_addresses(a_project(tmp_path, {"uv.lock": ""}))) == 1


@pytest.mark.parametrize("name", [".env", "keys/server.pem", "id_ed25519", ".netrc"])
def test_a_file_named_like_a_secret_is_found(tmp_path: Path, name: str) -> None:
    assert secrets(a_project(tmp_path, {name: ""})) == [f"{name}: is named like a secret"]


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "sk_live_" + "abcdefghijklmnop",
        "eyJhbGciOiJSUzI1NiJ9." + "eyJzdWIiOiJhbGljZSJ9." + "c2lnbmF0dXJlc2lnbmF0dXJl",
    ],
)
def test_a_file_with_a_secret_is_found_and_the_secret_not_repeated(
    tmp_path: Path, text: str
) -> None:
    root = a_project(tmp_path, {".env.example": "A=\n", "x.py": f"\n'{text}'\n"})
    assert secrets(root) == ["x.py:2: looks like a secret"]


class TestRunning:
    def test_a_check_that_cannot_run_has_failed(self) -> None:
        assert timed(program("/no/such/program")).findings

    def test_a_silent_failure_is_a_failure(self) -> None:
        assert program("false")() == ["exit code 1"]
        assert program("true")() == []

    def test_every_check_has_its_line_and_any_finding_fails_the_run(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run({"good": list, "bad": lambda: ["one", "two"], "last": list}) == ["bad"]
        *lines, summary = capsys.readouterr().out.splitlines()
        assert [line.split()[:2] for line in lines] == [
            ["good", "ok"],
            ["bad", "failed"],
            ["one"],
            ["two"],
            ["last", "ok"],
        ]
        assert summary.startswith("1 of 3 checks failed after ")
