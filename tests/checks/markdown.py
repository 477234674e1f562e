"""The parts of Markdown documents that can break: links, anchors, and what stands in backticks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.checks.files import REPOSITORY, project_files, texts

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_INLINE = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^\s)>]*)>?(?:\s+[\"'(][^)]*)?\)")
_DEFINED = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)>?")
_AUTOMATIC = re.compile(r"<(https?:[^\s>]*)>")
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)\s*#*\s*$")
_ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)[\"']")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a document's prose, or of the code that it shows."""

    number: int
    text: str
    is_code: bool


def documents(root: Path = REPOSITORY) -> list[Path]:
    """Every Markdown document of the project, relative to `root`."""
    return [path for path in project_files(root) if path.suffix == ".md"]


def lines(text: str) -> Iterator[Line]:
    """The document's lines, without the fences themselves."""
    fence = ""
    for number, line in enumerate(text.splitlines(), start=1):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        else:
            yield Line(number, line, bool(fence))


def code_spans(text: str) -> list[str]:
    """What stands in backticks in the prose."""
    return [
        span[2].strip()
        for line in lines(text)
        if not line.is_code
        for span in _CODE.finditer(line.text)
    ]


def code_blocks(text: str) -> list[str]:
    """The lines of all code blocks."""
    return [line.text for line in lines(text) if line.is_code]


def anchors(text: str) -> set[str]:
    """What `#…` can point to: headings as GitHub and GitLab name them, and explicit anchors."""
    found: set[str] = set()
    for line in lines(text):
        if line.is_code:
            continue
        found.update(_ANCHOR.findall(line.text))
        if heading := _HEADING.match(line.text):
            found.add(_numbered(_slug(heading[1]), found))
    return found


def links(text: str) -> Iterator[tuple[int, str]]:
    """Line number and target of each link."""
    for line in lines(text):
        if line.is_code:
            continue
        prose = _CODE.sub("", line.text)
        for pattern in (_INLINE, _DEFINED, _AUTOMATIC):
            for match in pattern.finditer(prose):
                yield line.number, match[1]


def broken_links(root: Path = REPOSITORY) -> list[str]:
    """Links of all documents that lead nowhere; of those to other sites only the syntax is looked at."""
    return [
        f"{path}:{number}: {target or 'an empty link'}: {problem}"
        for path, text in texts(documents(root), root)
        for number, target in links(text)
        if (problem := _problem(root, path, target))
    ]


def _problem(root: Path, document: Path, target: str) -> str | None:
    try:
        parts = urlsplit(target)
    except ValueError:
        return "is not a URL"
    if parts.scheme or parts.netloc:
        is_usable = (
            parts.scheme in ("https", "http") and "." in parts.netloc
        ) or parts.hostname == "localhost"
        return None if is_usable or parts.scheme == "mailto" else "is not a usable URL"
    place = root / document.parent / unquote(parts.path) if parts.path else root / document
    if not place.resolve().is_relative_to(root.resolve()):
        return "leads out of the repository"
    if not target or not place.exists():
        return "no such file"
    if (
        parts.fragment
        and place.suffix == ".md"
        and unquote(parts.fragment) not in anchors(place.read_text())
    ):
        return "no such heading"
    return None


def _slug(heading: str) -> str:
    text = _CODE.sub(lambda code: code[2], heading)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def _numbered(slug: str, taken: set[str]) -> str:
    """The second heading of one name gets -1, the third -2."""
    if slug not in taken:
        return slug
    return next(name for n in range(1, len(taken) + 2) if (name := f"{slug}-{n}") not in taken)
