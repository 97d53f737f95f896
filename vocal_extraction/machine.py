"""What results are made with: the cores that this process may use, and the commit of the code."""

import os
import subprocess

from vocal_extraction.settings import PROJECT_FOLDER


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_commit() -> str:
    """Name the commit of the code, with a mark where it has been changed since; empty outside a checkout."""
    command = ["git", "-C", str(PROJECT_FOLDER), "describe", "--always", "--dirty", "--abbrev=12", "--match", ""]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()
