"""``python -m stress.soak``: clients use a page's server for an hour, and what it holds is counted.

They upload songs, wait or change their minds, fetch stems, send what is no song, and leave event streams open. When all
have gone, files, processes and open files must be as many as before they came, and memory and threads no more than in
the first ten minutes.
"""

import argparse
import contextlib
import datetime
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.__main__ import machine
from stress.memory import _held_kib, _tree
from vocal_extraction.live.pcm import wav_header
from vocal_extraction.settings import PROJECT_FOLDER

MOST_OPEN_STREAMS = 10
LONGEST_SONG_S = 90.0
_SAMPLE_EVERY_S = 60.0
_SETTLED_S = 600.0  # from when on memory must not grow
_GROWTH = 1.15


class Client(threading.Thread):
    """Uses the page in a session of its own until told to leave."""

    def __init__(self, port: int, seed: int, leaving: threading.Event, counts: Counter[str]) -> None:
        super().__init__(daemon=True)
        self.port, self.draw, self.leaving, self.counts = port, random.Random(seed), leaving, counts
        self.streams: list[http.client.HTTPConnection] = []
        self.cookie = ""
        self.cookie = str(self.ask("GET", "/")[1]["set-cookie"]).partition(";")[0]

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Cookie": self.cookie})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def run(self) -> None:
        while not self.leaving.is_set():
            try:
                self.visit()
            except (OSError, http.client.HTTPException, AssertionError, KeyError, ValueError) as error:
                self.counts[f"FAULT {type(error).__name__}: {error}"] += 1
        for stream in self.streams:
            stream.close()

    def visit(self) -> None:
        """Do one of the things that clients do."""
        if self.draw.random() < 0.1:
            status, _, content = self.ask("POST", "/api/jobs?name=song.mp3", self.draw.randbytes(50_000))
            if status < 300:
                self.ended(json.loads(content)["id"], "failed")
            self.counts["no song"] += 1
            return
        length_s = self.draw.choice((2.0, 10.0, LONGEST_SONG_S))
        noise = np.random.default_rng(self.draw.randrange(2**32)).uniform(-0.3, 0.3, (int(length_s * 44_100), 2))
        song = wav_header(44_100, 2) + noise.astype("<f4").tobytes()
        status, _, content = self.ask("POST", "/api/jobs?name=song.wav&model=classic", song)
        assert status < 300, content
        job = json.loads(content)["id"]
        if self.draw.random() < 0.2:
            self.leave_stream_open(job)
        if self.draw.random() < 0.3:
            self.leaving.wait(self.draw.uniform(0.0, 10.0))
            self.counts["cancelled"] += 1
        else:
            for name in self.ended(job, "done")["stems"]:
                status, _, stem = self.ask("GET", f"/api/jobs/{job}/stems/{name}")
                assert status == 200 and len(stem) > 44_100 * length_s, name
            assert self.ask("GET", f"/api/jobs/{job}/all.zip")[2][:2] == b"PK"
            self.counts["done"] += 1
        status = self.ask("DELETE", f"/api/jobs/{job}")[0]
        assert status < 300, status

    def ended(self, job: str, expected: str) -> dict[str, Any]:
        """Wait for a job's end, and return its state."""
        while (state := json.loads(self.ask("GET", f"/api/jobs/{job}")[2]))["state"] in ("queued", "working"):
            time.sleep(0.3)
        assert state["state"] == expected, state
        return dict(state)

    def leave_stream_open(self, job: str) -> None:
        """Begin to follow a job's events, and read no further."""
        stream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        stream.request("GET", f"/api/jobs/{job}/events", headers={"Cookie": self.cookie})
        self.streams.append(stream)
        self.counts["streams left open"] += 1
        if len(self.streams) > MOST_OPEN_STREAMS:
            self.streams.pop(0).close()


def held(server: int, folder: Path) -> dict[str, int]:
    """Count what the server holds: MiB, processes, threads, open files, and files in its temporary folder."""
    with contextlib.suppress(OSError):
        return {
            "MiB": sum(map(_held_kib, _tree(server))) // 1_024,
            "processes": len(_tree(server)),
            "threads": len([*Path(f"/proc/{server}/task").iterdir()]),
            "open files": len([*Path(f"/proc/{server}/fd").iterdir()]),
            "files": sum(len(names) for _, _, names in os.walk(folder)),
        }
    raise SystemExit("the server ended")


def main() -> int:
    """Print what is held, once a minute, and what the clients did; return 1 if something stayed."""
    parser = argparse.ArgumentParser(prog="python -m stress.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--port", type=int, default=7_871)
    options = parser.parse_args()
    print(f"{datetime.date.today().isoformat()}, {machine()}")
    counts, leaving, faults = Counter[str](), threading.Event(), []
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        command = [sys.executable, str(PROJECT_FOLDER / "main.py"), "serve", "--port", str(options.port)]
        environment = {**os.environ, "TMPDIR": name}
        server = subprocess.Popen(command, cwd=name, env=environment, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        print(server.stdout.readline().strip(), flush=True)
        time.sleep(_SAMPLE_EVERY_S)  # in which it measures its models
        before = held(server.pid, folder)
        print(f"before: {before}", flush=True)
        clients = [Client(options.port, number, leaving, counts) for number in range(options.clients)]
        started, settled = time.monotonic(), before
        for client in clients:
            client.start()
        while (minutes := (time.monotonic() - started) / 60) < options.minutes:
            time.sleep(min(_SAMPLE_EVERY_S, 60 * (options.minutes - minutes)))
            now = held(server.pid, folder)
            print(f"{minutes + 1:3.0f} min: {now}, {dict(counts)}", flush=True)
            if 60 * minutes < _SETTLED_S:
                settled = {each: max(settled[each], now[each]) for each in now}
        leaving.set()
        for client in clients:
            client.join()
        time.sleep(_SAMPLE_EVERY_S)
        after = held(server.pid, folder)
        print(f"after: {after}, {dict(counts)}")
        most = {**before, "MiB": int(_GROWTH * settled["MiB"]), "threads": settled["threads"]}
        faults += [f"{each}: {after[each]}, expected {most[each]}" for each in most if after[each] > most[each]]
        faults += [each for each in counts if each.startswith("FAULT")]
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        faults += [f"left: {path}" for path in folder.iterdir()]
    print(*faults or ["nothing stayed"], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
