"""What is in the images, layer by layer: only what running needs, and nothing that is secret."""

import re
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Final

import pytest
from ecom_local.jars import read_pins
from ecom_local.parts import DATABASES
from ecom_local.paths import REPOSITORY

from tests.containers.conftest import Measured
from tests.support.compose import APIS, BASE_IMAGE, Project, read_env

MB: Final = 1_000_000
MOST_BASE_MB: Final = 300
MOST_ADDED_MB: Final = 10

# By name: a compiler may hide in any folder of the PATH, or in none.
TOOLS: Final = re.compile(
    r"(?:cc|c\+\+|gcc(-\d+)?|g\+\+(-\d+)?|cpp|clang|ld|make|cargo|rustc|javac|jlink|mvn|gradle|git|uv)"
)
CACHES: Final = re.compile(
    r"(?:root|app|home/[^/]+)/\.cache/.+|var/lib/apt/lists/(?!lock$|partial/?$|auxfiles/?$).+"
    r"|var/cache/apt/(?:archives/.+\.deb|.*pkgcache\.bin)|(?:root/)?\.(?:m2|jgo|npm)/.+|build/.+"
)
PRIVATE_FILES: Final = re.compile(
    r"(?:.*/)?(?:\.env|private\.pem|id_rsa|id_ed25519|\.netrc|\.pgpass)"
)
BLOCK: Final = 1 << 20


@dataclass
class Contents:
    """All files of some images, in whichever layer, also those that a later layer hides."""

    names: set[str] = field(default_factory=set)
    digests: dict[str, str] = field(default_factory=dict)
    """Of our own files and Flyway's: path → SHA-256."""
    leaks: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def contents(built: Project) -> Contents:
    found = Contents()
    secrets = _secrets(built)
    longest = max(len(secret) for secret in secrets)
    images = [BASE_IMAGE, *(built.image(name) for name in APIS)]
    for member, content in _files(images):
        name = member.name.removeprefix("./")
        if PurePosixPath(name).name.startswith(".wh."):
            continue  # what this layer takes away; the file itself stands in the layer that brought it
        found.names.add(name)
        if content is None:
            continue
        digest, tail = sha256(), b""
        while block := content.read(BLOCK):
            digest.update(block)
            window = tail + block
            if any(secret in window for secret in secrets):
                found.leaks.append(name)
            tail = block[-longest:]
        if name.startswith(("app/", "opt/flyway/lib/")):
            found.digests[f"{name}#{digest.hexdigest()}"] = name
    return found


def test_no_secret_is_in_a_file_of_any_layer(contents: Contents) -> None:
    assert contents.leaks == []
    assert [name for name in contents.names if PRIVATE_FILES.fullmatch(name)] == []


@pytest.mark.parametrize("service", [None, *APIS])
def test_no_secret_is_in_the_history_or_the_settings_of_an_image(
    service: str | None, built: Project
) -> None:
    image = built.engine.images.get(built.image(service) if service else BASE_IMAGE)
    text = repr((image.history(), image.attrs)).encode()
    assert [secret for secret in _secrets(built) if secret in text] == []
    names = {entry.partition("=")[0] for entry in image.attrs["Config"]["Env"]}
    assert not [name for name in names if re.search("PASSWORD|SECRET|TOKEN|DATABASE_URL", name)]


def test_no_compiler_and_no_package_cache_is_left_in_any_layer(contents: Contents) -> None:
    folders = {"bin", "sbin"}
    tools = [
        name
        for name in contents.names
        if (path := PurePosixPath(name)).parent.name in folders and TOOLS.fullmatch(path.name)
    ]
    assert tools == []
    assert [name for name in contents.names if CACHES.fullmatch(name)] == []


@pytest.mark.parametrize("service", APIS)
def test_a_service_adds_its_code_to_the_base_runs_as_nobody_special_and_listens_on_80(
    service: str, built: Project, measured: Measured
) -> None:
    base, image = (built.engine.images.get(name) for name in (BASE_IMAGE, built.image(service)))
    size, base_size = (i.attrs["Size"] / MB for i in (image, base))
    measured[f"image {service}"] = f"{size:.1f} MB, {size - base_size:.1f} above the base"
    layers = base.attrs["RootFS"]["Layers"]
    assert image.attrs["RootFS"]["Layers"][: len(layers)] == layers
    assert size - base_size <= MOST_ADDED_MB
    config = image.attrs["Config"]
    assert (config["User"], config["WorkingDir"]) == ("ecom", "/app")
    assert list(config["ExposedPorts"]) == ["80/tcp"]
    assert config["Cmd"] == ["python", "-m", f"{service}.app"]


def test_the_base_has_its_size_its_labels_and_a_user_of_its_own(
    built: Project, measured: Measured
) -> None:
    attributes = built.engine.images.get(BASE_IMAGE).attrs
    size = attributes["Size"] / MB
    measured["image custom-python-flyway"] = f"{size:.1f} MB"
    assert size <= MOST_BASE_MB
    assert attributes["Config"]["User"] == "ecom"
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in attributes["Config"]["Labels"].items()
    }
    assert {"version", "source", "revision", "licenses"} <= set(labels)
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["version"])
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["revision"])


def test_the_migrations_and_the_code_in_the_images_are_those_of_the_repository(
    contents: Contents,
) -> None:
    wanted = {
        file: f"app/{database.migrations.name}/{file.name}"
        for database in DATABASES.values()
        for file in database.migrations.glob("*.sql")
    }
    for part in (
        "libs/audit",
        "libs/common",
        "libs/contracts",
        *(f"services/{service}" for service in APIS),
    ):
        source = REPOSITORY / part / "src"
        wanted |= {file: f"app/{file.relative_to(source)}" for file in source.rglob("*.py")}
    found = set(contents.digests)
    missing = [
        place
        for file, place in wanted.items()
        if f"{place}#{_digest(file.read_bytes())}" not in found
    ]
    assert missing == []
    sql = {name for name in contents.names if name.startswith("app/") and name.endswith(".sql")}
    assert sql == {place for place in wanted.values() if place.endswith(".sql")}


def test_flyway_in_the_image_is_made_of_the_pinned_jars_that_the_native_runtime_has(
    contents: Contents,
) -> None:
    pinned = sorted(pin.sha256 for pin in read_pins("flyway"))
    jars = [entry for entry, name in contents.digests.items() if name.startswith("opt/flyway/lib/")]
    assert sorted(entry.partition("#")[2] for entry in jars) == pinned


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def _secrets(project: Project) -> list[bytes]:
    """Passwords of this project and of the developer's own, and the body of the keys."""
    files = [file for file in (project.env_file, REPOSITORY / ".env") if file.exists()]
    passwords = {
        value.encode()
        for file in files
        for name, value in read_env(file).items()
        if name.endswith("_PASSWORD") and len(value) >= 8
    }
    keys = [project.home / "keys" / "private.pem", REPOSITORY / ".local" / "keys" / "private.pem"]
    bodies = {key.read_bytes().splitlines()[5] for key in keys if key.exists()}
    assert passwords
    assert bodies
    return sorted(passwords | bodies)


def _files(images: list[str]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Every entry of every layer, each layer once; with its content when it is a file."""
    # One archive of all of them: the layers that they share are in it once.
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "images.tar"
        subprocess.run(["docker", "save", "--output", archive, *images], check=True)
        with tarfile.open(archive) as outer:
            for entry in outer:
                if content := outer.extractfile(entry):
                    yield from _layer(content)


def _layer(content: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    # Beside the layers there are documents that describe them.
    with suppress(tarfile.ReadError), tarfile.open(fileobj=content) as layer:
        for member in layer:
            yield member, layer.extractfile(member) if member.isfile() else None
