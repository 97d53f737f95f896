"""``python -m stress.kills [JOB ...]``: kill -9 at random moments, start again, and check what is left.

Each job runs once undisturbed, for its duration and its results. Then it is started, killed at a random moment, checked
and started again, until it ends: then its results must be the undisturbed ones. Three times in ten only the process
itself is killed and not its children.
"""

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import zipfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.__main__ import machine
from stress.victims import JOBS, Job, is_whole_wav
from vocal_extraction.atomic_files import remove_leftovers, sha256_of

N_KILLS = 60
SEED = 8
_MOST_IN_A_ROW = 4
"""Kills after which a job may run to its end, so that many ends are compared, too."""
_PATIENCE_S = 300.0
_TIMED = ("mixtures_per_s", "data_wait_share", "duration_s")
"""What the clock says of an epoch."""

_server = multiprocessing.get_context("forkserver")
_PRELOADED = [
    f"vocal_extraction.{name}"
    for name in ("training", "evaluation", "extraction", "reports.page", "live.run", "web_page.server")
]


@dataclasses.dataclass
class Tally:
    """What came of the kills of one job."""

    n_kills: int = 0
    n_ends: int = 0
    """Runs that ended after kills, and were compared."""
    losses: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        """Give the figures."""
        return f"{self.n_kills:3} kills, {self.n_ends:3} ends compared, {len(self.losses)} losses"


def _live(job: Job, inputs: Path, results: Path, ready: Connection) -> None:
    """Do a job in a process group of its own."""
    os.setsid()
    ready.send(True)
    job.run(inputs, results)


def _start(job: Job, inputs: Path, results: Path) -> Any:
    results.mkdir(parents=True, exist_ok=True)
    ready, child_end = _server.Pipe(duplex=False)
    process = _server.Process(target=_live, args=(job, inputs, results, child_end))
    process.start()
    child_end.close()
    ready.poll(_PATIENCE_S)
    return process


def _finish(process: Any) -> int:
    process.join(_PATIENCE_S)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return int(process.exitcode)


def _kill(process: Any, *, with_children: bool) -> bool:
    """Kill a process, unless it has ended; return whether it was killed."""
    if with_children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.join()
    return bool(process.exitcode == -signal.SIGKILL)


def half_written(folder: Path) -> list[str]:
    """Name the files that stand under a final name and are not whole."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".partial-") and not _is_whole(path)
    ]


def _is_whole(path: Path) -> bool:
    try:
        match path.suffix:
            case ".wav":
                return is_whole_wav(path)
            case ".json":
                json.loads(path.read_text(encoding="utf-8"))
            case ".jsonl":
                # Its last line may be under way; all others must be whole.
                for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
                    json.loads(line)
            case ".npy":
                np.load(path, allow_pickle=False)
            case ".png":
                return path.read_bytes().endswith(b"IEND\xaeB`\x82")
            case ".pth":
                return zipfile.ZipFile(path).testzip() is None
            case ".html":
                return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
            case ".csv" | ".txt":
                return path.read_bytes().endswith(b"\n")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return not path.exists()  # what an orphan took away in between was no result
    return True


def _unloadable(folder: Path) -> list[str]:
    """Name the checkpoints that cannot be loaded."""
    from vocal_extraction.checkpointing import CheckpointError, load_checkpoint

    found = []
    for path in folder.rglob("*.model.pth"):
        if ".sanity-check" not in path.parts:
            try:
                load_checkpoint(path)
            except CheckpointError as error:
                found.append(str(error))
    return found


def _result(job: Job, folder: Path) -> dict[str, str]:
    """Return what must not depend on kills: hashes of files by name, weights instead of a checkpoint's times."""
    paths = sorted({path for pattern in job.compared for path in folder.glob(pattern)})
    return {str(path.relative_to(folder)): _fingerprint(path) for path in paths}


def _fingerprint(path: Path) -> str:
    if path.suffix == ".wav":
        # libsndfile writes the time of day into the headers of floats.
        samples, sample_rate = soundfile.read(path, always_2d=True)
        return hashlib.sha256(samples.tobytes()).hexdigest() + f" {sample_rate} {samples.shape}"
    if path.name == "history.jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return str([{name: value for name, value in row.items() if name not in _TIMED} for row in rows])
    if path.name == "sources.json":
        return str({key: n_bytes for key, n_bytes in json.loads(path.read_text()).items() if key != "musdb_path"})
    if path.suffix != ".pth":
        return sha256_of(path)
    from vocal_extraction.checkpointing import read_checkpoint

    weights = read_checkpoint(path)["state_dict"]
    return str(hash(tuple((name, value.numpy().tobytes()) for name, value in sorted(weights.items()))))


def _lost_or_doubled(job: Job, folder: Path) -> list[str]:
    """Say which songs of an extraction do not stand in its manifest as they should when it has ended."""
    if job.name != "extract":
        return []
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    failed = [f"{line['file']}: {line['reason']}" for line in lines if line["outcome"] == "failed"]
    places: dict[str, set[str]] = {}
    for line in lines:
        if line["stems"]:
            places.setdefault(line["source"], set()).add(line["stems"]["vocals"])
    return failed + [f"{song} has several places: {found}" for song, found in places.items() if len(found) != 1]


def kill_job(job: Job, *, n_kills: int, seed: int, folder: Path, inputs: Path | None = None) -> Tally:
    """Kill a job so many times; return what came of it. Its inputs are made, unless there are some."""
    draw, tally = random.Random(f"{seed} {job.name}"), Tally()
    if inputs is None:
        inputs = folder / "inputs"
        job.make_inputs(inputs)
    process = _start(job, inputs, folder / "undisturbed")
    started = time.monotonic()
    if _finish(process) != 0:
        raise RuntimeError(f"{job.name} does not even work undisturbed")
    duration_s = time.monotonic() - started
    expected = _result(job, folder / "undisturbed")
    results, in_a_row = folder / "0", 0
    while tally.n_kills < n_kills or in_a_row:
        process = _start(job, inputs, results)
        if tally.n_kills < n_kills and in_a_row < _MOST_IN_A_ROW:
            time.sleep(draw.uniform(0, duration_s))
            if _kill(process, with_children=draw.random() < 0.7):
                tally.n_kills, in_a_row = tally.n_kills + 1, in_a_row + 1
                tally.losses += [f"half written: {name}" for name in half_written(results)] + _unloadable(results)
                continue
        tally.n_ends += 1
        if _finish(process) != 0:
            tally.losses.append(f"{job.name} ended with status {process.exitcode} after {in_a_row} kills")
        tally.losses += _differences(expected, _result(job, results)) + _lost_or_doubled(job, results)
        remove_leftovers(results)  # a child that outlived its killed parent may have left some since the last start
        tally.losses += [f"left behind: {path}" for path in results.rglob(".partial-*")]
        results, in_a_row = folder / str(tally.n_ends), 0
    return tally


def _differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    lost = [f"lost: {name}" for name in expected.keys() - found.keys()]
    more = [f"more than there should be: {name}" for name in found.keys() - expected.keys()]
    return (
        lost + more + [f"differs: {name}" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    )


def prepare_server() -> None:
    """Let the server that processes are forked from import what they need, once."""
    # It warns of the semaphores of the killed; the system has them back already.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    _server.set_forkserver_preload(_PRELOADED)


def main() -> int:
    """Kill the jobs that are named, or all; print a line each, and return 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m stress.kills", description=__doc__)
    parser.add_argument("jobs", nargs="*", choices=[[], *JOBS], metavar="JOB", help=", ".join(JOBS))
    parser.add_argument("--kills", type=int, default=N_KILLS, help="over all jobs together")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    prepare_server()
    names = options.jobs or list(JOBS)
    print(f"{datetime.date.today().isoformat()}, {machine()}, seed {options.seed}")
    tallies = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            share = -(-options.kills // len(names))
            tally = kill_job(JOBS[name], n_kills=share, seed=options.seed, folder=Path(folder))
        tallies.append(tally)
        print(f"{name:<9} {tally}", *tally.losses, sep="\n  ", flush=True)
    in_all = Tally(
        sum(tally.n_kills for tally in tallies),
        sum(tally.n_ends for tally in tallies),
        [fault for tally in tallies for fault in tally.losses],
    )
    print(f"in all    {in_all}")
    return 1 if in_all.losses else 0


if __name__ == "__main__":
    sys.exit(main())
