"""Small file systems, for tests of full and read-only disks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def in_mount(folder: Path, command: str, *words: str, size: str = "600k") -> subprocess.CompletedProcess[str]:
    """Run a shell command where `folder` is a small file system of its own that nobody else sees."""
    folder.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    able = shutil.which("unshare") is not None and (
        subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False).returncode
        == 0
    )
    if not able:
        pytest.skip("no file system can be mounted here")
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && {command}'
    return subprocess.run(
        [*unshare, "sh", "-c", script, folder, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
