"""``make lock``: write a lock file beside every requirements file, with the hashes of all files of every package.

uv resolves for all platforms and Pythons at once, so that one lock serves them all; what belongs to some only has a
marker. The stand-in for soxbindings and the project itself are folders, which have no hash: they are left out and
installed by themselves.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST_PYTHON = "3.11"


def lock(requirements: Path) -> None:
    """Write the lock of one requirements file, agreeing with that of the program."""
    target = requirements.with_suffix(".lock")
    installed_together = [f"requirements-{name}.txt" for name in ("dev", "scale", "web")]
    constraints = ["-c", "requirements.lock"] if requirements.name in installed_together else []
    command = [
        *(str(Path(sys.executable).with_name("uv")), "pip", "compile", requirements.name, "-o", target.name),
        *("--universal", "--generate-hashes", "--python-version", OLDEST_PYTHON, "--no-emit-package", "soxbindings"),
        *("--no-emit-package", "vocal-extraction"),
        *("--no-annotate", "--custom-compile-command", "make lock", "--quiet", *constraints),
    ]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "UV_SYSTEM_CERTS": "1"})
    print(f"{target.name}: {target.read_text(encoding='utf-8').count('==')} packages")


def main() -> int:
    """Lock every requirements file, that of the program first."""
    for requirements in sorted(ROOT.glob("requirements*.txt"), key=lambda path: len(path.name)):
        lock(requirements)
    return 0


if __name__ == "__main__":
    sys.exit(main())
