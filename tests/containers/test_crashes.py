"""Every long-running container dies under load, once: it comes back by itself, and the books agree."""

from time import monotonic

import pytest

from tests.containers.conftest import Measured
from tests.support.compose import LONG_RUNNING, Project
from tests.support.traffic import Traffic


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_a_killed_container_comes_back_and_every_acknowledged_order_comes_out_right(
    service: str, project: Project, measured: Measured
) -> None:
    before = project.started_at(service)
    with Traffic(project) as traffic:
        traffic.until_more(5)
        begin = monotonic()
        project.crash(service)
        project.until_ready(service, other_than=before)
        recovered_s = monotonic() - begin
        traffic.until_more(10)
    orders = traffic.check()
    settled_s = monotonic() - begin
    refused = ", ".join(f"{count} {what}" for what, count in traffic.refused.items())
    measured[f"kill -9 {service}"] = (
        f"ready after {recovered_s:.1f} s, all {orders} orders final after {settled_s:.1f} s; "
        f"sent again: {refused or 'nothing'}"
    )
    assert project.container(service).attrs["RestartCount"] >= 1
