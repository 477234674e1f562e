"""The auditor as its command, on a platform that runs natively."""

import json
import os
import subprocess
from typing import Any

from ecom_local.instance import Instance
from ecom_local.paths import REPOSITORY


def audit(instance: Instance, *arguments: str) -> dict[str, Any]:
    """What scripts/audit says of the instance; its exit code goes with it."""
    result = subprocess.run(
        [REPOSITORY / "scripts" / "audit", "--json", *arguments],
        env=os.environ | {"ECOM_HOME": str(instance.layout.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["clean"] == (result.returncode == 0)
    return document
