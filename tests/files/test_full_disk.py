"""`file://` on a disk that is full, through all that lies above it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.files.full_disk_worker import LARGE
from tests.mounts import in_mount
from tests.servers import RedisServer

pytestmark = pytest.mark.redis_server


def test_on_a_full_disk_a_large_value_is_refused_or_waits_and_nothing_is_half_written(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    disk = tmp_path / "small"
    command = f'exec {sys.executable} -m tests.files.full_disk_worker {redis_server.url} {tmp_path} "$0"'
    said = json.loads(in_mount(disk, command, size="1500k").stdout)
    assert said["now"].startswith("report/now is not in the documents yet (")
    assert f"{disk}/files: No space left on device. Nothing was written. Make room on the disk" in said["now"]
    assert "waits in the outbox" in said["now"]
    assert all("No space left on device" in each for each in said["flushed"])
    full, room = said["full"], said["room"]
    assert full == {
        "objects": 1,
        "uploads": [],
        "documents": [True, False, False, True],
        "read": [LARGE, LARGE, LARGE, 5],
        "waiting": 2,
        "dead": 0,
        "pending": 2,
    }
    assert room == full | {"objects": 3, "documents": [True] * 4, "waiting": 0, "pending": 0}
