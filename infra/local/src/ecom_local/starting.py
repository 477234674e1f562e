"""Starting parts: what must be there before, in which order, and when each is ready."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

import psutil

from ecom_local import (
    environment,
    kafka,
    leftovers,
    passwords,
    postgres,
    readiness,
    stopping,
    tokens,
)
from ecom_local.errors import LocalError, PartError, PortInUseError
from ecom_local.parts import PARTS, STAGES, Part
from ecom_local.ports import is_free, variable
from ecom_local.site import Site, stored_ports

_SUPERVISOR_LIMIT_S = 30
_POLL_S = 0.02
_WORTH_SAYING_S = 0.05


def start(site: Site, wanted: Sequence[Part]) -> None:
    """Start the parts that do not run yet, stage by stage, and wait until all are ready.

    Parts that run are waited for all the same: they may have been started only just now, by somebody else.
    """
    tokens.ensure_key(site.layout)
    running = site.running()
    if running and stored_ports(site.layout) not in (None, site.ports):
        raise LocalError(
            "The platform runs already, with other ports; stop it first: scripts/down."
        )
    if not running:
        _end_leftovers(site)
    due = [part for part in wanted if part.name not in running]
    _check_ports(site, due)
    _prepare(site, due)
    _configure(site)
    migrate = any(part.service for part in wanted)
    for stage in STAGES:
        _start_stage(site, [part for part in wanted if part.stage == stage], migrate=migrate)


def _end_leftovers(site: Site) -> None:
    if not site.supervisor.is_running() and (count := leftovers.end(site.layout.home)):
        site.say(f"ended {count} processes that an earlier run had left behind")


def _check_ports(site: Site, parts: Sequence[Part]) -> None:
    numbers = site.ports.to_dict()
    for part in parts:
        for name in part.ports:
            if not is_free(numbers[name]):
                raise PortInUseError(
                    f"Port {numbers[name]}, which {part.name} needs, is taken by {_listener(numbers[name])}.\n"
                    f"Stop that, or choose another port: {variable(name)}=<port> scripts/up"
                )


def _listener(port: int) -> str:
    """Who listens there, as far as we may see it."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        connections = []
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.pid:
            process = psutil.Process(connection.pid)
            home = leftovers.home_of(process)
            whose = f", part of the ecom instance in {home}" if home else ""
            return f"{process.name()} (pid {connection.pid}{whose})"
    return "another program (perhaps of another user, or a container)"


def _prepare(site: Site, due: Sequence[Part]) -> None:
    """Cluster and storage of the parts that are about to start, side by side."""
    names = {part.name for part in due}
    with ThreadPoolExecutor() as pool:
        jobs: list[Future[None]] = []
        if "postgres" in names:
            jobs.append(pool.submit(postgres.prepare, site.layout, site.ports, site.passwords))
        if "kafka" in names:
            jobs.append(pool.submit(kafka.prepare, site.layout, site.ports))
        for job in jobs:
            job.result()


def _configure(site: Site) -> None:
    """Have a supervisor that runs the present configuration."""
    text = site.configuration()
    config = site.layout.config
    changed = not config.exists() or config.read_text() != text
    if changed:
        passwords.write_private(config, text)
    site.store_ports()
    if not site.supervisor.is_running():
        _start_supervisor(site)
    elif changed:
        _apply_changes(site)


def _start_supervisor(site: Site) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ecom_local.supervise", "-c", site.layout.config],
        env=environment.inherited() | site.marker,
        capture_output=True,
        text=True,
        check=False,
    )
    deadline = time.monotonic() + _SUPERVISOR_LIMIT_S
    while not site.supervisor.is_running():
        if result.returncode != 0 or time.monotonic() > deadline:
            log = site.layout.log("supervisord")
            raise PartError(f"supervisord did not start; see {log}\n{result.stdout}{result.stderr}")
        time.sleep(_POLL_S)


def _apply_changes(site: Site) -> None:
    """Replace the programs whose configuration has changed; a running one is stopped for it."""
    added, changed, removed = site.supervisor.reload()
    stopping.stop_parts(site, [PARTS[name] for name in changed if name in PARTS])
    for name in [*changed, *removed]:
        site.supervisor.remove(name)
    for name in [*changed, *added]:
        site.supervisor.add(name)


def _start_stage(site: Site, parts: Sequence[Part], *, migrate: bool) -> None:
    if migrate and any(part.service for part in parts):
        site.migrate(only_changed=True)
    for part in parts:
        _spawn(site, part)
    enough = threading.Event()
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(_finish, site, part, migrate, enough) for part in parts]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            enough.set()  # or the pool would wait for all the others first
            raise


def _spawn(site: Site, part: Part) -> None:
    if site.supervisor.state(part.name).state in readiness.DEAD:
        # It would be tried again some time; now is better.
        site.supervisor.stop(part.name)
    site.supervisor.start(part.name)


def _finish(site: Site, part: Part, migrate: bool, enough: threading.Event) -> None:
    took_s = readiness.wait(
        part,
        probe=lambda: site.problem(part),
        state=lambda: site.supervisor.state(part.name),
        log=site.layout.log(part.name),
        enough=enough,
    )
    if took_s > _WORTH_SAYING_S:
        site.say(f"{part.name} ready after {took_s:.1f} s")
    if part.name == "postgres":
        new = postgres.provision(site.layout, site.ports, site.passwords)
        # Here already, while the broker is still starting.
        if migrate:
            site.migrate(only_changed=True, new_databases=new)
