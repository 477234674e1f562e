"""Processes die where they are told to, once, and never unless they are told."""

import subprocess
import sys
from pathlib import Path

import pytest
from ecom_common.crash_points import POINTS, crash_point, use_hook

PROGRAM = """
import sys
from pathlib import Path
from ecom_common.crash_points import arm, crash_point
arm(Path(sys.argv[1]))
for _ in range(3):
    crash_point("relay.half_sent")
    crash_point("relay.before_delete")
print("survived")
"""


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, folder], capture_output=True, text=True, check=False
    )


def test_a_process_dies_at_the_place_for_which_there_is_a_file_and_only_once(
    tmp_path: Path,
) -> None:
    wanted = tmp_path / "relay.before_delete"
    wanted.touch()
    first = run(tmp_path)
    assert (first.returncode, first.stdout) == (-9, "")
    assert not wanted.exists()
    assert run(tmp_path).stdout == "survived\n"


def test_the_file_says_which_signal(tmp_path: Path) -> None:
    (tmp_path / "relay.half_sent").write_text("TERM\n")
    assert run(tmp_path).returncode == -15


def test_a_folder_that_is_not_there_arms_nothing(tmp_path: Path) -> None:
    assert run(tmp_path / "nothing").stdout == "survived\n"


@pytest.mark.parametrize("point", POINTS)
def test_every_place_is_somewhere_in_the_code(point: str) -> None:
    root = Path(__file__).parents[2]
    sources = [*root.glob("libs/common/src/**/*.py"), *root.glob("services/*/src/**/*.py")]
    assert any(f'crash_point("{point}")' in path.read_text() for path in sources)


def test_a_hook_hears_of_every_place() -> None:
    heard: list[str] = []
    use_hook(heard.append)
    try:
        crash_point("batch.before_commit")
    finally:
        use_hook(None)
    crash_point("batch.after_commit")
    assert heard == ["batch.before_commit"]
