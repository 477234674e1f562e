"""What no file of the project may contain: addresses of package registries, and secrets."""

import fnmatch
import re
from pathlib import Path

from tests.checks.files import REPOSITORY, project_files, texts

# Composed, because the names must not stand in this file either.
_REGISTRIES = (
    ("pypi", "org"), ("pythonhosted", "org"), ("maven", "org"), ("maven.apache", "org"),
    ("sonatype", "(?:org|com)"), ("npmjs", "(?:org|com)"), ("yarnpkg", "com"), ("docker", "(?:io|com)"),
    ("ghcr", "io"), ("gcr", "io"), ("quay", "io"), ("mcr.microsoft", "com"), ("public.ecr", "aws"),
    ("anaconda", "(?:org|com)"), ("crates", "io"), ("proxy.golang", "org"), ("rubygems", "org"),
    ("(?:deb|security|archive).debian", "org"), ("(?:archive|security).ubuntu", "com"), ("alpinelinux", "org"),
)  # fmt: skip
_PRODUCTS = ("artifactory", "jfrog", "nexus", "devpi")
_REGISTRY = re.compile(
    r"(?<![\w@.-])(?:[\w-]+\.)*(?:"
    + "|".join(rf"{name}\.{ending}" for name, ending in _REGISTRIES)
    + r")(?![\w-]|\.\w)"
    + r"|https?://[\w.:-]*(?:" + "|".join(_PRODUCTS) + r"|(?:mirrors?|registry)[.-]\w)[\w.:-]*"
    + r"|https?://[\w.:-]+/(?:[\w-]+/)*(?:simple|maven2?|npm)(?:/|\b)",
    re.IGNORECASE,
)  # fmt: skip
_INDEX_OPTION = re.compile(
    r"https?://|^\s*(?:-i|-f|--(?:extra-)?index-url|--find-links|--trusted-host)\b", re.MULTILINE
)
_REQUIREMENTS = ("*requirements*.txt", "*requirements*.in", "*constraints*.txt")
# They name the registry that they were made with.
_LOCKS_WITH_ADDRESSES = (
    "uv.lock",
    "poetry.lock",
    "pdm.lock",
    "pylock*.toml",
    "Pipfile.lock",
    "pip.conf",
)

_SECRET_NAMES = (
    ".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "id_rsa*", "id_ed25519*",
    "id_ecdsa*", ".netrc", ".pgpass", ".pypirc", ".npmrc", "*.kdbx", "credentials", "credentials.json",
)  # fmt: skip
_TEMPLATES = ("*.example", "*.sample", "*.template")
_SECRET = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    r"|\bgh[pousr]_[0-9A-Za-z]{36}\b|\bglpat-[0-9A-Za-z_-]{20}\b|\bxox[abprs]-[0-9A-Za-z-]{10,}"
    r"|\b[sr]k_live_[0-9A-Za-z]{16,}"  # Stripe
    r"|\beyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{20,}"  # a signed JWT
)


def registry_addresses(root: Path = REPOSITORY) -> list[str]:
    """Where a file names a package registry or mirror; packages come by name, from whatever serves them."""
    paths = project_files(root)
    found = [
        f"{path}: names the registry that it was made with"
        for path in paths
        if _matches(path, _LOCKS_WITH_ADDRESSES)
    ]
    for path, text in texts(paths, root):
        found += _places(path, text, _REGISTRY, "names a package registry")
        if _matches(path, _REQUIREMENTS):
            found += _places(path, text, _INDEX_OPTION, "says where packages come from")
    return found


def secrets(root: Path = REPOSITORY) -> list[str]:
    """Files that look like secrets by name or by content. The findings do not repeat them."""
    paths = project_files(root)
    found = [
        f"{path}: is named like a secret"
        for path in paths
        if _matches(path, _SECRET_NAMES) and not _matches(path, _TEMPLATES)
    ]
    for path, text in texts(paths, root):
        found += _places(path, text, _SECRET, "looks like a secret")
    return found


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)


def _places(path: Path, text: str, pattern: re.Pattern[str], what: str) -> list[str]:
    return [
        f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {what}"
        for match in pattern.finditer(text)
    ]
