"""Disks of a test's own, in memory: small ones that fill up, and ones that become read-only."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest


class Disk:
    """A mounted disk; `path` is where."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, options: str) -> None:
        """Change its size or its mode, as ``size=20m`` or ``ro``."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True, timeout=30)

    def fill(self) -> Path:
        """Leave not a byte of it free; return the file that takes them all."""
        ballast = self.path / "ballast"
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while file.write(bytes(4_096)):
                pass
        return ballast


@pytest.fixture
def small_disk(tmp_path):
    """Mount disks in memory by their size; the test is skipped where this user may not."""
    mounted: list[Path] = []

    def mount(size: str) -> Disk:
        path = tmp_path / f"disk-{len(mounted)}"
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
            capture_output=True,
            check=False,
            timeout=30,
        )
        if done.returncode != 0:
            pytest.skip("a disk of one's own cannot be mounted here: this needs root, or another kind of sandbox")
        mounted.append(path)
        return Disk(path)

    before = Path.cwd()
    yield mount
    os.chdir(before)
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=30)
