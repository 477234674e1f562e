"""Disks that are full or slow. Both are real ones, of the kernel's making, and need root.

A small disk is a file system in memory, mounted over a folder. A slow one is the disk that is there, from
which a control group of processes gets few writes a second.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

CHUNK: Final = 1024 * 1024
REFILL_EVERY_S: Final = 0.1
CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")


@contextmanager
def small(folder: Path, *, spare_bytes: int) -> Iterator[None]:
    """Have the folder lie on a disk of its own that has so much room left. Nobody may use it at either end."""
    status, kept = folder.stat(), folder.with_name(f"{folder.name}.kept")
    size = sum(file.lstat().st_size for file in folder.rglob("*")) + spare_bytes
    folder.rename(kept)
    folder.mkdir(mode=0o700)
    options = f"size={size},mode=0700,uid={status.st_uid},gid={status.st_gid}"
    _run("mount", "-t", "tmpfs", "-o", options, "ecom-chaos", str(folder))
    try:
        _copy(kept, folder)
        shutil.rmtree(kept)
        yield
        back = folder.with_name(f"{folder.name}.back")
        back.mkdir(mode=0o700)
        os.chown(back, status.st_uid, status.st_gid)
        _copy(folder, back)
    finally:
        # Lazily: when something went wrong, somebody may be in it still.
        _run("umount", "--lazy", str(folder))
    folder.rmdir()
    back.rename(folder)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill the folder's disk, whatever becomes free again on it, until the end."""
    stop = threading.Event()
    ballast = folder / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            while True:
                with suppress(OSError):
                    while not stop.is_set():
                        file.write(bytes(CHUNK))
                with suppress(OSError):
                    while not stop.is_set():
                        file.write(bytes(512))
                if stop.wait(REFILL_EVERY_S):
                    return

    thread = threading.Thread(target=fill, name="ballast", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        ballast.unlink()


@contextmanager
def slow(server: int, folder: Path, *, writes_per_s: int) -> Iterator[None]:
    """Let the process and its children, those to come as well, make so few writes to the folder's disk."""
    device = _device(folder)
    group = _group()
    group.mkdir()
    try:
        if (limit := group / "blkio.throttle.write_iops_device").exists():
            limit.write_text(f"{device} {writes_per_s}")
        else:
            (group / "io.max").write_text(f"{device} wiops={writes_per_s}")
        _move(server, group)
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


def can_be_slow() -> bool:
    """Whether the kernel lets us make a disk slow: by control groups of either version."""
    controllers = CONTROL_GROUPS / "cgroup.subtree_control"
    return (CONTROL_GROUPS / "blkio").is_dir() or (
        controllers.exists() and "io" in controllers.read_text().split()
    )


def _group() -> Path:
    version_1 = CONTROL_GROUPS / "blkio"
    return (version_1 if version_1.is_dir() else CONTROL_GROUPS) / f"ecom-chaos-{os.getpid()}"


def _move(server: int, group: Path) -> None:
    process = psutil.Process(server)
    for member in (process, *process.children(recursive=True)):
        with suppress(OSError):  # one that has just ended
            (group / "cgroup.procs").write_text(str(member.pid))


def _device(folder: Path) -> str:
    """Major and minor number of the disk that the folder lies on; limits are not for partitions."""
    number = folder.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    if (block / "partition").exists():
        block = block.parent
    return (block / "dev").read_text().strip()


def _copy(source: Path, target: Path) -> None:
    _run("cp", "--archive", f"{source}/.", str(target))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
