"""Workers that die: what they had in hand is done by others, or given up after three tries, with the reason."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction.outcome import FAILED, Outcome, Totals
from vocal_extraction.extraction.workers import ProcessWorker, Tries, do_all

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Shout:
    """Returns words in capitals, but for two: one kills whoever takes it, one does so only once."""

    folder: Path

    def prepare(self, stopped):
        if not self.folder.exists():
            raise ExtractionError("There is no folder.")
        if (self.folder / "stillborn").exists():
            (self.folder / "stillborn").unlink()
            os._exit(4)

        def do(word):
            if word == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "unlucky" and not (self.folder / word).exists():
                (self.folder / word).touch()
                os._exit(3)
            return word.upper()

        return do


def test_a_song_that_kills_its_worker_is_given_up_and_the_rest_is_done(tmp_path):
    (tmp_path / "stillborn").touch()  # the first worker dies before it has a song
    results, tries = {}, Tries(tmp_path / "in-hand.json")
    do_all(
        iter(["poison", "a", "unlucky", "b"]),
        lambda: ProcessWorker(Shout(tmp_path)),
        n_workers=2,
        tries=tries,
        name=str,
        done=results.__setitem__,
    )
    assert "died 3 times (it was killed by SIGKILL)" in str(results.pop("poison"))
    assert results == {"a": "A", "unlucky": "UNLUCKY", "b": "B"}
    tries.close()
    assert json.loads((tmp_path / "in-hand.json").read_text()) == {"poison": 3}
    with pytest.raises(ExtractionError, match="--overwrite tries it again"):
        Tries(tmp_path / "in-hand.json").begin("poison")
    afresh = Tries(tmp_path / "in-hand.json", afresh=True)
    afresh.begin("poison")
    afresh.close()
    assert not (tmp_path / "in-hand.json").exists()


def test_a_song_in_hand_when_the_program_is_killed_counts_as_tried(tmp_path):
    for _ in range(3):
        Tries(tmp_path / "in-hand.json").begin("song")
    with pytest.raises(ExtractionError, match="3 times \\(with the whole program\\)"):
        Tries(tmp_path / "in-hand.json").begin("song")
    tries = Tries(tmp_path / "in-hand.json")
    assert list(tries.suspects_last(["song", "a", "b"], str)) == ["a", "b", "song"], "the rest is done first"
    (tmp_path / "in-hand.json").write_text('{"song": ')
    Tries(tmp_path / "in-hand.json").begin("song")


def test_a_worker_that_cannot_begin_says_so(tmp_path):
    with pytest.raises(ExtractionError, match=r"There is no folder\."):
        ProcessWorker(Shout(tmp_path / "missing"))


PROGRAM = """
import sys, time, dataclasses, os
sys.path.insert(0, {here!r})
from test_workers import Sleep
from vocal_extraction.extraction.workers import ProcessWorker
if __name__ == "__main__":
    ProcessWorker(Sleep({folder!r}))("go")
"""


@dataclasses.dataclass(frozen=True)
class Sleep:
    """Says who it is and takes its time."""

    folder: str

    def prepare(self, stopped):
        def do(word):
            Path(self.folder, "pid.part").write_text(str(os.getpid()))
            Path(self.folder, "pid.part").rename(Path(self.folder, "pid"))
            time.sleep(100)

        return do


def test_workers_end_with_a_program_that_is_killed(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM.format(here=str(Path(__file__).parent), folder=str(tmp_path)))
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    program = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 100
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    program.kill()
    program.wait()
    process = Path("/proc", (tmp_path / "pid").read_text())
    while process.exists():
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.05)


def test_totals_count_failures_by_reason_and_cost():
    totals = Totals(price_per_core_hour=0.5, n_cores=4)
    totals.started_s -= 3600
    for number in range(3):
        totals.add(Outcome(f"s3://b/{number}.mp3", FAILED, reason=f"s3://b/{number}.mp3 ends after {number}.5 s."))
    totals.add(Outcome("a.wav", "done", 2.0, duration_s=7200.0))
    assert totals.failures == {"the song ends after N s.": 3}
    assert str(totals) == (
        "1 songs done (2.00 hours of audio, 2.0 times real time), 3 failed (3: the song ends after N s.), "
        "cost 2.00 (2000.00 for 1,000 songs)"
    )
