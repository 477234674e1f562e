"""The native runtime's own rules: pins, ports, supervisor's configuration, tokens, logs."""

import configparser
import json
from pathlib import Path
from uuid import UUID

import jwt
import pytest
from ecom_local import control, jars, logs, postgres, tokens
from ecom_local.control import Program
from ecom_local.errors import DownloadError, LocalError
from ecom_local.jars import Coordinate, Pin
from ecom_local.kafka import new_cluster_id
from ecom_local.paths import Layout
from ecom_local.ports import Ports


@pytest.mark.parametrize("name", list(jars.PIN_FILES))
def test_every_root_is_pinned_and_every_pin_has_a_digest(name: str) -> None:
    pins = jars.read_pins(name)
    coordinates = [pin.coordinate for pin in pins]

    assert {root.coordinate for root in jars.read_roots(name)} <= set(coordinates)
    assert coordinates == sorted(set(coordinates))
    assert all(len(pin.sha256) == 64 and int(pin.sha256, 16) for pin in pins)


def test_a_coordinate_names_its_file() -> None:
    assert Coordinate.parse("g:a:1.0").filename == "a-1.0.jar"
    assert Coordinate.parse("g:a:1.0:linux").filename == "a-1.0-linux.jar"
    with pytest.raises(ValueError, match="group:artifact:version"):
        Coordinate.parse("g:a")


def test_a_jar_that_is_not_the_pinned_one_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    held = repository / "g" / "a" / "1.0" / "a-1.0.jar"
    held.parent.mkdir(parents=True)
    held.write_bytes(b"something else")
    config = tmp_path / "jgo.conf"
    config.write_text(f"[repositories]\nhere = file://{repository}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
    monkeypatch.setenv("M2_REPO", str(repository))
    monkeypatch.setattr(jars, "JARS", tmp_path / "jars")
    monkeypatch.setattr(jars, "_TRIES", 1)
    monkeypatch.setattr(jars, "PIN_FILES", {"some": tmp_path / "some.jars"})
    (tmp_path / "some.jars").write_text(f"g:a:1.0 {'0' * 64}\n")

    with pytest.raises(DownloadError, match=r"g:a:1\.0"):
        jars.fetch()

    assert jars.missing() == [("some", Pin(Coordinate("g", "a", "1.0"), "0" * 64))]


def test_ports_come_from_the_environment() -> None:
    ports = Ports().with_environment({"ECOM_ORDER_PORT": "9001", "ECOM_KAFKA_PORT": ""})

    assert (ports.order, ports.kafka) == (9001, Ports().kafka)
    with pytest.raises(LocalError, match="ECOM_ORDER_PORT='70000'"):
        Ports().with_environment({"ECOM_ORDER_PORT": "70000"})


def test_free_ports_are_distinct() -> None:
    numbers = list(Ports.free().to_dict().values())
    assert len(set(numbers)) == len(numbers)


def test_a_configuration_keeps_awkward_values(tmp_path: Path) -> None:
    program = Program("some", ["/a b/run", "100%"], {"URL": "x=1,y=%2F;'"})
    text = control.configuration(Layout(tmp_path), [program], {})

    parser = configparser.RawConfigParser()
    parser.read_string(text)
    section = parser["program:some"]
    assert section["command"] == "'/a b/run' 100%%"
    assert section["environment"] == 'URL="x=1,y=%%2F;\'"'


def test_the_control_socket_is_never_too_long_for_a_socket(tmp_path: Path) -> None:
    long = Layout(tmp_path / ("x" * 100))
    assert len(str(long.control_socket)) < 90
    assert Layout(Path("/short")).control_socket == Path("/short/run/control.sock")


def test_a_token_verifies_against_the_published_key(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    tokens.ensure_key(layout)
    token = tokens.mint(sub="alice", scope="orders:read", home=tmp_path)

    keys = jwt.PyJWKSet.from_json(tokens.jwks_path(layout).read_text())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(
        token, key, algorithms=["RS256"], audience=tokens.AUDIENCE, issuer=tokens.ISSUER
    )
    assert (claims["sub"], claims["scope"]) == ("alice", "orders:read")
    assert (layout.keys / "private.pem").stat().st_mode & 0o077 == 0


def test_without_a_key_minting_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="scripts/up"):
        tokens.mint(sub="alice", scope="", home=tmp_path)


def test_json_logs_become_readable_and_others_stay() -> None:
    line = json.dumps(
        {
            "at": "2026-01-02T03:04:05.678901+00:00",
            "level": "error",
            "message": "no",
            "n": 1,
            "stack": "a\nb",
        }
    )
    assert logs.readable(line) == ["2026-01-02T03:04:05.678 ERROR   no  n=1", "    a", "    b"]
    assert logs.readable("plain") == ["plain"]
    assert logs.readable("{broken") == ["{broken"]


def test_settings_of_an_instance_count_more_than_the_files(tmp_path: Path) -> None:
    command = postgres.command(Layout(tmp_path), {"max_connections": "7"})
    assert command[-2:] == ["-c", "max_connections=7"]


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    drawn = iter([UUID(bytes=b"\xf8" + bytes(15)), UUID(bytes=b"\xfb" + bytes(15)), UUID(int=0)])

    assert new_cluster_id(lambda: next(drawn)) == "A" * 22
