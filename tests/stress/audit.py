"""``make audit``: ask PyPI for the known vulnerabilities of every locked package.

Exit status: 0 all were checked and none is known; 1 some are known; 2 not all could be checked, which is no good news.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600.0


def ask(lock: Path) -> list[dict[str, Any]] | str:
    """Return what pip-audit found of the packages of a lock file, or its last words if it found nothing out."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--format", "json"]
    try:
        done = subprocess.run(
            [*command, "--progress-spinner", "off", "-r", str(lock)],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        return list(json.loads(done.stdout)["dependencies"])
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT_S:g} s"
    except (json.JSONDecodeError, KeyError, TypeError):
        return (done.stderr.strip().splitlines() or ["it said nothing"])[-1]


def judge(answers: dict[str, list[dict[str, Any]] | str]) -> tuple[list[str], int]:
    """Return what there is to say of each lock file's answer, and the exit status."""
    lines, status = [], 0
    for name, answer in answers.items():
        if isinstance(answer, str):
            lines.append(
                f"{name}: nothing could be checked, the vulnerability service was not reached ({answer[:300]})"
            )
            status = 2
            continue
        known = [f"{each['name']} {each['version']}: {bug['id']}" for each in answer for bug in each.get("vulns", [])]
        skipped = [each["name"] for each in answer if "skip_reason" in each]
        lines += [f"{name}: {line}" for line in known]
        n_checked = len(answer) - len(skipped)
        lines.append(f"{name}: {n_checked} of {len(answer)} packages checked, {len(known)} known vulnerabilities")
        if skipped or not answer:
            lines.append(
                f"{name}: {len(skipped)} could not be checked, as {skipped[:1]}: the vulnerability service was not "
                "reached, or does not know them. Nothing is known about these."
            )
            status = 2
        if known and status == 0:
            status = 1
    return lines, status


def main() -> int:
    """Audit every lock file."""
    locks = sorted(ROOT.glob("requirements*.lock"))
    lines, status = judge({lock.name: ask(lock) for lock in locks})
    print("\n".join(lines) or "There are no lock files: make lock")
    return status if locks else 2


if __name__ == "__main__":
    sys.exit(main())
