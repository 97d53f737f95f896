"""``python -m stress.catalogue``: many songs by `extract --shard`, timed, or with kill -9 of workers and of the driver.

``--songs 1000 --song-s 240`` is the timing, ``--kills 20`` the kills; a song is synthesised once, and each file of it
has another tag. At the end every song must be done exactly once, nothing half-written, and the totals right. Two stems
of 1,000 songs are 85 GB: with ``--remove`` they are looked at and emptied as they come.
"""

import argparse
import contextlib
import datetime
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine
from stress.memory import _held_kib, children
from stress.victims import is_whole_wav
from vocal_extraction.settings import PROJECT_FOLDER

N_SONGS, SONG_S, N_JOBS, SEED = 200, 2.0, 2, 8
LONGEST_CALM_S = 12.0
"""Between kills; a driver needs some seconds to begin."""


def make_songs(folder: Path, n_songs: int, song_s: float) -> Path:
    """Write MP3s that differ in a tag alone, and a list of them; return the list."""
    sound = "sine=frequency=220:sample_rate=44100[a];anoisesrc=amplitude=0.2:sample_rate=44100:seed=1[b];[a][b]amix"
    command = ["ffmpeg", "-nostdin", "-v", "error", "-filter_complex", sound, "-t", str(song_s), "-ac", "2"]
    command += ["-f", "mp3", "-id3v2_version", "0", "-"]
    frames = subprocess.run(command, check=True, capture_output=True).stdout
    (folder / "songs").mkdir()
    for number in range(n_songs):
        title = f"Song {number:07}".encode("latin-1")
        frame = b"TIT2" + (len(title) + 1).to_bytes(4, "big") + b"\0\0\0" + title
        tag = b"ID3\3\0\0" + bytes((0, 0, len(frame) >> 7, len(frame) & 127)) + frame
        (folder / "songs" / f"{number:07}.mp3").write_bytes(tag + frames)
    listed = folder / "songs.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted((folder / "songs").iterdir())))
    return listed


def start(folder: Path, n_jobs: int, *, engine: str) -> subprocess.Popen[str]:
    """Start the driver."""
    options = ["--list", "songs.txt", "--shard", "0/1", "--preset", "classic", "-o", "out", "--engine", engine]
    command = [sys.executable, str(PROJECT_FOLDER / "main.py"), "extract", *options, "--jobs", str(n_jobs), "--json"]
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)


def workers_of(driver: int) -> list[int]:
    """Return the processes of a driver that extract songs: its children, whose own have their names at first."""
    found = []
    for process in children(driver):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
    return found


def half_written(output: Path) -> list[str]:
    """Name the stems that are not whole."""
    stems = [path for path in output.rglob("*.wav") if not path.name.startswith(".partial-")]
    return [str(path) for path in stems if not is_whole_wav(path)]


def remove_whole(output: Path) -> None:
    """Leave nothing of the stems of finished songs that are whole but their names."""
    for stem in output.rglob("*.wav"):
        if not stem.name.startswith(".partial-") and stem.stat().st_size and is_whole_wav(stem):
            os.truncate(stem, 0)


def check(folder: Path, n_songs: int, song_s: float, totals: dict[str, Any], *, removed: bool) -> list[str]:
    """Say what is wrong when all songs should be done."""
    losses = [] if removed else [f"half written: {path}" for path in half_written(folder / "out")]
    losses += [f"not removed: {path}" for path in (folder / "out").rglob("*.wav") if removed and path.stat().st_size]
    lines = [json.loads(line) for line in (folder / "out" / "manifest-00000-of-00001.jsonl").read_text().splitlines()]
    done = Counter(line["source"] for line in lines if line["outcome"] == "done")
    songs = (folder / "songs.txt").read_text().splitlines()
    losses += [f"done {done[song]} times: {song}" for song in songs if done[song] != 1]
    losses += [f"not asked for: {song}" for song in done.keys() - set(songs)]
    losses += [f"failed: {line['source']}: {line['reason']}" for line in lines if line["outcome"] == "failed"]
    stems = {folder / "out" / stem for line in lines for stem in line["stems"].values()}
    there = set((folder / "out").rglob("*.wav"))
    losses += [f"lost: {path}" for path in stems - there] + [f"left over: {path}" for path in there - stems]
    if totals["done"] + totals["skipped"] != n_songs or totals["failed"]:
        losses.append(f"the totals are wrong: {totals}")
    command = [sys.executable, str(PROJECT_FOLDER / "main.py"), "extract", "--merge-manifests", "-o", "out", "--json"]
    merged = json.loads(subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True).stdout)
    if merged["done"] != n_songs or abs(3600 * merged["audio_hours"] - n_songs * song_s) > 0.1 * n_songs + 1:
        losses.append(f"the merged totals are wrong: {merged}")
    return losses


def run(
    folder: Path, n_jobs: int, n_kills: int, draw: random.Random, *, calm_s: float, engine: str, remove: bool
) -> tuple[Counter[str], str, list[int]]:
    """Run to the end with so many kills; return what was killed, the driver's words, and memory of workers in MiB."""
    kills, held = Counter[str](), list[int]()
    driver = start(folder, n_jobs, engine=engine)
    next_kill_s = time.monotonic() + draw.uniform(1.0, calm_s)
    while driver.poll() is None:
        time.sleep(5.0 if remove else 0.2)
        if remove:
            remove_whole(folder / "out")
        if time.monotonic() < next_kill_s or kills.total() >= n_kills:
            if kills.total() >= n_kills and (workers := workers_of(driver.pid)):
                held.append(max(map(_held_kib, workers)) // 1_024)
            continue
        next_kill_s = time.monotonic() + draw.uniform(1.0, calm_s)
        workers = workers_of(driver.pid)
        if workers and draw.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(workers), signal.SIGKILL)
                kills["worker"] += 1
        else:
            driver.kill()
            driver.wait()
            kills["driver"] += 1
            for path in half_written(folder / "out"):
                print(f"half written: {path}")
            driver = start(folder, n_jobs, engine=engine)
    if remove:
        remove_whole(folder / "out")
    return kills, driver.communicate()[0], held


def main() -> int:
    """Print what was measured and lost."""
    parser = argparse.ArgumentParser(prog="python -m stress.catalogue", description=__doc__)
    parser.add_argument("--songs", type=int, default=N_SONGS)
    parser.add_argument("--song-s", type=float, default=SONG_S)
    parser.add_argument("--jobs", type=int, default=N_JOBS)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--calm-s", type=float, default=LONGEST_CALM_S, help="at most so long between kills")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--engine", default="processes")
    parser.add_argument("--remove", action="store_true", help="empty stems that are whole, to save space")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="catalogue-") as name:
        folder = Path(name)
        make_songs(folder, options.songs, options.song_s)
        before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        draw = random.Random(options.seed)
        more = {"calm_s": options.calm_s, "engine": options.engine, "remove": options.remove}
        kills, answer, held = run(folder, options.jobs, options.kills, draw, **more)
        wall_s, after = time.monotonic() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if not answer:
            print((folder / "log.txt").read_text()[-2_000:])
            return 1
        losses = check(folder, options.songs, options.song_s, json.loads(answer), removed=options.remove)
    cores = len(os.sched_getaffinity(0))
    print(f"{datetime.date.today().isoformat()}, {machine()}, seed {options.seed}")
    print(f"{options.songs} songs of {options.song_s:g} s in {wall_s:.0f} s, {options.jobs} jobs, kills: {dict(kills)}")
    print(f"{cpu_s / options.songs:.2f} core seconds a song, {cpu_s / wall_s / cores:.0%} of {cores} cores")
    if len(held) >= 8:
        quarter = len(held) // 4
        first, last = statistics.median(held[quarter : 2 * quarter]), statistics.median(held[-quarter:])
        print(f"memory of the largest worker: {first:.0f} MiB in the second quarter, {last:.0f} MiB in the last")
    print(*losses or ["Every song is done exactly once, nothing is half-written, and the totals are right."], sep="\n")
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(main())
