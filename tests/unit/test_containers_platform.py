"""The platform in containers as the scripts see it, and what is compared after a restore."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ecom_local import containers, facts
from ecom_local.backup import swap_statements
from ecom_local.containers import Container, service_names
from ecom_local.errors import LocalError
from ecom_local.facts import Facts, Order, Paid
from ecom_local.parts import DATABASES
from ecom_local.paths import REPOSITORY

KNOWN = ["kafka", "order_postgres", "inventory_postgres", "payment_postgres", "order_service", "order_worker"]  # fmt: skip


def a_container(**changes: Any) -> Container:
    """A healthy order_service, from what docker says of it."""
    state = {
        "Status": "running",
        "ExitCode": 0,
        "Pid": 7,
        "StartedAt": "2026-01-02T03:04:05.678901234Z",
        "Health": {"Status": "healthy", "Log": []},
    }
    ports = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8001"}], "9/tcp": None}
    return Container.of(
        {
            "Id": "abc",
            "Config": {"Labels": {"com.docker.compose.service": "order_service"}},
            "State": state | changes,
            "NetworkSettings": {"Ports": ports},
        }
    )


def test_what_the_containers_need_is_made_where_it_is_missing_and_only_there(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "home" / "keys"
    keys.mkdir(parents=True)
    for name in ("jwks.json", "private.pem"):
        (keys / name).touch()
    env = tmp_path / "env"
    # A name without a value, a choice, and a last line without its end.
    env.write_text("ORDER_OWNER_PASSWORD=\nORDER_PORT=9001\nORDER_SERVICE_PASSWORD=mine")

    def prepare() -> dict[str, str]:
        own = {"ECOM_ENV_FILE": str(env), "ECOM_HOME": str(tmp_path / "home")}
        subprocess.run(
            [REPOSITORY / "infra" / "containers" / "prepare"], env=os.environ | own, check=True
        )
        return dict(line.split("=", 1) for line in env.read_text().splitlines())

    settings = prepare()
    assert settings["ORDER_PORT"] == "9001"
    assert settings["ORDER_SERVICE_PASSWORD"] == "mine"
    assert len(settings["ORDER_OWNER_PASSWORD"]) == 32
    assert all(settings.values())
    assert len(set(settings.values())) >= 18, "every password is another one"
    assert env.stat().st_mode & 0o077 == 0
    assert prepare() == settings


def test_a_container_tells_where_it_listens_and_that_it_is_well() -> None:
    container = a_container()

    assert (container.name, container.port, container.problem) == ("order_service", 8001, None)
    assert container.started_at.isoformat() == "2026-01-02T03:04:05+00:00"


def test_an_unhealthy_container_tells_what_its_last_check_said() -> None:
    log = [{"Output": "long ago"}, {"Output": "no answer: refused\n"}]

    problem = a_container(Health={"Status": "unhealthy", "Log": log}).problem

    assert problem == "unhealthy: no answer: refused"


def test_a_job_that_has_ended_well_is_as_it_must_be_and_a_service_is_not() -> None:
    ended = {"Status": "exited", "Pid": 0}
    assert a_container(**ended, Health=None).problem is None
    assert a_container(**ended).problem is not None
    assert "scripts/logs" in str(a_container(**ended | {"ExitCode": 1}, Health=None).problem)


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("order-api", ["order_service"]),
        ("order-worker", ["order_worker"]),
        ("order_worker", ["order_worker"]),
        ("postgres", ["order_postgres", "inventory_postgres", "payment_postgres"]),
    ],
)
def test_a_part_has_its_name_of_the_native_runtime_too(part: str, names: list[str]) -> None:
    assert service_names(part, KNOWN) == names


def test_a_part_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(LocalError, match="choose from inventory_postgres, kafka"):
        service_names("nonsense", KNOWN)


@pytest.mark.parametrize(
    ("text", "mib"), [("38.75MiB", 38.75), ("1.5GiB ", 1536.0), ("512KiB", 0.5), ("0B", 0.0)]
)
def test_memory_is_read_as_docker_writes_it(text: str, mib: float) -> None:
    assert containers.mib(text) == mib


def test_the_restored_database_takes_the_place_of_the_present_one_at_once() -> None:
    closing, _, swap, opening = swap_statements(
        DATABASES["order"], out="_replaced", back="_restored"
    )

    assert closing == "ALTER DATABASE orderdb WITH ALLOW_CONNECTIONS false"
    assert opening == "ALTER DATABASE orderdb WITH ALLOW_CONNECTIONS true"
    assert swap.startswith("BEGIN; ALTER DATABASE orderdb RENAME TO orderdb_replaced;")
    assert swap.endswith("ALTER DATABASE orderdb_restored RENAME TO orderdb; COMMIT")


def what_all_say(**changes: Any) -> Facts:
    """A sold order and a cancelled one, and everybody agrees."""
    said: dict[str, Any] = {
        "orders": {
            "a": Order("confirmed", "committed", "captured"),
            "b": Order("cancelled", "restocked", "refunded"),
        },
        "stock": {"a": "committed", "b": "released"},
        "payments": {"a": Paid("captured", 500), "b": Paid("refunded", 0)},
        "provider": {"a": 500, "b": 0},
    }
    return Facts(**said | changes)


def test_it_makes_no_difference_how_it_came_that_nothing_is_held() -> None:
    found = facts.differences(what_all_say())

    assert not found
    assert facts.report(found) == ["orders, inventory, payment and provider agree"]


def test_a_participant_that_was_set_back_is_seen() -> None:
    found = facts.differences(what_all_say(stock={"b": "committed"}, payments={}))

    assert set(found.of_orders) == {"a", "b"}
    assert found.of_orders["a"] == [
        "its stock is committed, and none in the inventory",
        "its payment is captured, and none in payment",
        "the provider has kept 500, payment has booked 0",
    ]


def test_what_is_kept_for_an_order_that_nobody_knows_is_seen() -> None:
    orders = {"b": Order("cancelled", "restocked", "refunded")}

    found = facts.differences(what_all_say(orders=orders))

    assert found.unknown == {
        "a": "stock committed, payment captured, money 500 kept by the provider"
    }
    assert "scripts/reconcile --undo-unknown" in facts.report(found)[-1]


def test_what_is_still_to_be_said_is_a_difference() -> None:
    assert facts.differences(what_all_say(unsent=1))
    on_its_way = {"a": Order("pending", "held", "requested")}
    assert facts.differences(what_all_say(orders={**what_all_say().orders, **on_its_way}))
