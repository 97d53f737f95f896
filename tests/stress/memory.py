"""``python -m stress.memory [COMMAND ...]``: run every command, and print the most memory that it took.

Counted is what a command and its children held together at any time.
Memory that processes share counts once (Linux's proportional set size), fifty times a second. Songs are made for it;
the extracted one is four minutes of stereo.
"""

import contextlib
import datetime
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.__main__ import machine
from vocal_extraction.checkpointing import named_checkpoint
from vocal_extraction.reports.tables import text_table
from vocal_extraction.settings import PROJECT_FOLDER

SONG_S = 240.0
_PAUSE_S = 0.02
_MIB = 1_024


def children(process: int) -> list[int]:
    """Return the processes that a process has started and that are still there."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def _tree(root: int) -> list[int]:
    """Return a process and all below it."""
    found, waiting = [], [root]
    while waiting:
        process = waiting.pop()
        found.append(process)
        waiting += children(process)
    return found


def _held_kib(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def peak_mib(arguments: Sequence[str], folder: Path, *, answers: str = "", limit_s: float = 600.0) -> tuple[int, float]:
    """Run a command and return its peak in MiB, and how long it ran; after `limit_s` it gets Ctrl-C."""
    command = [sys.executable, str(PROJECT_FOLDER / "main.py"), *arguments]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started, highest, is_interrupted = time.monotonic(), 0, False
    environment = {name: value for name, value in os.environ.items() if name != "MUSDB_PATH"}
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, text=True, env=environment, **silent) as process:  # type: ignore[call-overload]
        process.stdin.write(answers)
        process.stdin.close()
        while process.poll() is None:
            highest = max(highest, sum(map(_held_kib, _tree(process.pid))))
            if time.monotonic() - started > limit_s and not is_interrupted:
                process.send_signal(signal.SIGINT)
                is_interrupted = True
            time.sleep(_PAUSE_S)
    if process.returncode not in (0, 130):
        raise RuntimeError(f"{' '.join(arguments)} ended with status {process.returncode}")
    return highest // _MIB, time.monotonic() - started


def _make_songs(folder: Path) -> None:
    import numpy as np
    import soundfile

    from stress.victims import JOBS
    from vocal_extraction.demo_songs import write_demo_songs

    write_demo_songs(folder / "songs", n_train=8, n_valid=4, n_test=4, duration_s=7.0)
    samples = 0.1 * np.random.default_rng(0).standard_normal((round(SONG_S * 44_100), 2))
    soundfile.write(folder / "song.wav", samples, 44_100, subtype="PCM_16")
    JOBS["prepare"].make_inputs(folder / "coded")


def main() -> int:
    """Measure every command."""
    if not Path("/proc/self/smaps_rollup").exists():
        print("This needs Linux's /proc.", file=sys.stderr)
        return 1
    wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        folder = Path(name)
        _make_songs(folder)
        songs = ["--dataset", "songs"]
        member = str(named_checkpoint("classic"))
        commands: list[tuple[str, list[str], str, float]] = [
            ("the menu, left at once", [], "4\n", 600),
            ("doctor", ["doctor"], "", 600),
            ("prepare", ["prepare", "--musdb-path", "coded/source", "--dataset", "prepared"], "", 600),
            ("extract, studio", ["extract", "song.wav", "--preset", "studio"], "", 600),
            ("extract, classic", ["extract", "song.wav", "--preset", "classic", "-o", "other"], "", 600),
            ("evaluate, studio", ["evaluate", "--preset", "studio", *songs], "", 600),
            ("ensemble, two of classic", ["ensemble", member, member, "-o", "joined.pth"], "", 600),
            ("train, specified", ["train", "--epochs", "1", *songs], "", 3_600),
            (
                "train, studio",
                ["train", "--preset", "studio", "--epochs", "1", *songs, "--checkpoints", "c2"],
                "",
                3_600,
            ),
            ("demo", ["demo"], "", 600),
            ("serve, waiting", ["serve", "--no-browser", "--port", "7999"], "", 30),
        ]
        rows = []
        for what, arguments, answers, limit_s in commands:
            if wanted and what.split(",")[0] not in wanted:
                continue
            highest, duration_s = peak_mib(arguments, folder, answers=answers, limit_s=limit_s)
            rows.append([what, f"{highest}", f"{duration_s:.0f}"])
            print(f"{what}: {highest} MiB", file=sys.stderr, flush=True)
    print(f"{datetime.date.today().isoformat()}, {machine()}")
    print(text_table(["command", "peak (MiB)", "seconds"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
