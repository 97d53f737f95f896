"""The manifest of a folder of stems: torn lines, full disks, kills at the worst moment, two batches at once."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from extraction_models import ConstantMask, files_in, loaded, stems_of

from vocal_extraction.atomic_files import sha256_of, sole_writer
from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction import extract_songs, extract_vocals
from vocal_extraction.extraction.manifest import MANIFEST_NAME
from vocal_extraction.settings import ExtractionSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return loaded(ConstantMask(0.25))


def test_a_torn_line_of_the_manifest_is_passed_over(tmp_path, make_song, model):
    song, out = make_song("song.wav"), tmp_path / "out"
    extract_songs([song], out, model=model, show=False)
    with open(out / MANIFEST_NAME, "a", encoding="utf-8") as file:
        file.write('[1]\n"x"\n{"outcome": "done"}\n{"file": "x", "outc')
    (outcome,) = extract_songs([song], out, model=model, show=False)
    assert outcome.outcome == "skipped"


def test_a_line_that_follows_a_torn_one_is_whole(tmp_path, make_song, model):
    """A disk that was full when a line was written must not swallow the line that comes when it no longer is."""
    song, out = make_song("song.wav"), tmp_path / "out"
    out.mkdir()
    (out / MANIFEST_NAME).write_text('{"file": "x", "outc')
    extract_songs([song], out, model=model, show=False)
    (outcome,) = extract_songs([song], out, model=model, show=False)
    assert outcome.outcome == "skipped"


def stop_at(monkeypatch, rename):
    """Let the program end as by kill -9, but for its cleaning up, at the rename of this number."""
    calls = []
    real_replace = os.replace

    def replace(*paths):
        calls.append(paths)
        if len(calls) == rename:
            raise KeyboardInterrupt
        real_replace(*paths)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("rename", [1, 2, 3])
def test_a_song_whose_run_was_killed_between_its_stems_is_done_again(tmp_path, make_song, model, monkeypatch, rename):
    song, out = make_song("song.wav"), tmp_path / "out"
    with monkeypatch.context() as killed:
        stop_at(killed, rename)
        with contextlib.suppress(KeyboardInterrupt):
            extract_songs([song], out, model=model, show=False)
    (outcome,) = extract_songs([song], out, model=model, show=False)
    assert outcome.outcome == ("skipped" if rename == 3 else "done")
    assert files_in(out) == stems_of("song")


def test_a_stem_that_somebody_put_there_after_a_kill_is_not_replaced(tmp_path, make_song, model, monkeypatch):
    song, out = make_song("song.wav"), tmp_path / "out"
    with monkeypatch.context() as killed:
        stop_at(killed, 2)
        with contextlib.suppress(KeyboardInterrupt):
            extract_songs([song], out, model=model, show=False)
    (stem,) = (path for path in (out / "song").iterdir() if not path.name.startswith("."))
    stem.write_text("mine")
    (outcome,) = extract_songs([song], out, model=model, show=False)
    assert outcome.failed
    assert stem.read_text() == "mine"


def test_an_old_stem_does_not_pass_for_the_new_one_that_was_to_replace_it(tmp_path, make_song, model, monkeypatch):
    song, out, binary = make_song("song.wav"), tmp_path / "out", ExtractionSettings(mask="binary", overwrite=True)
    (outcome,) = extract_songs([song], out, model=model, show=False)
    for stem in outcome.stems.values():
        os.utime(stem, (1e9, 1e9))
    with monkeypatch.context() as killed:
        stop_at(killed, 1)
        with contextlib.suppress(KeyboardInterrupt):
            extract_songs([song], out, model=model, settings=binary, show=False)
    (outcome,) = extract_songs(
        [song], out, model=model, settings=dataclasses.replace(binary, overwrite=False), show=False
    )
    assert outcome.failed, "asked for a binary mask, and what stands there is of a soft one"


@pytest.mark.parametrize("threads", [True, False])
def test_two_batches_in_one_folder_take_turns(tmp_path, make_song, model, capsys, threads):
    """Whether the other batch is one of another process or of another thread of this one."""
    song, out = make_song("song.wav"), tmp_path / "out"
    started, end = threading.Event(), threading.Event()

    def hold():
        if threads:
            with sole_writer(out, doing="extracting"):
                started.set()
                end.wait(60)
            return
        code = (
            "import sys; from pathlib import Path; from vocal_extraction.atomic_files import sole_writer\n"
            "with sole_writer(Path(sys.argv[1]), doing='extracting'): print(flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, str(out)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2], **pipes) as process:
            process.stdout.readline()
            started.set()
            end.wait(60)
            process.stdin.close()

    outcomes = []
    holder = threading.Thread(target=hold)
    second = threading.Thread(target=lambda: outcomes.extend(extract_songs([song], out, model=model)))
    holder.start()
    assert started.wait(60)
    second.start()
    second.join(0.5)
    assert second.is_alive()
    assert files_in(out) == {".lock"}
    end.set()
    for thread in (holder, second):
        thread.join(60)
    assert [outcome.outcome for outcome in outcomes] == ["done"]
    assert files_in(out) == stems_of("song")
    assert f"Another process is extracting in {out}. Waiting" in capsys.readouterr().err


OLD_LINE = {
    "file": "song.wav",
    "outcome": "done",
    "seconds": 0.1,
    "reason": None,
    "duration_s": 0.2,
    "vocals": "song/vocals.wav",
    "accompaniment": "song/accompaniment.wav",
    "scale": 1.0,
    "notes": [],
    "model_sha256": "0" * 64,
    "format": "wav16",
    "bitrate_kbps": None,
    "mask": "soft",
    "phase": "mixture",
    "time": "2026-11-25T19:40:16+00:00",
}


def test_a_song_that_the_first_version_did_is_done(tmp_path, make_song, model):
    """Its lines name vocals and accompaniment by themselves, and their size and time in a list."""
    song, out = make_song("song.wav"), tmp_path / "out"
    (outcome,) = extract_songs([song], out, model=model, show=False)
    written = [[path.stat().st_size, path.stat().st_mtime_ns] for path in outcome.stems.values()]
    line = OLD_LINE | {"source": str(song.resolve()), "source_sha256": sha256_of(song), "written": written}
    (out / MANIFEST_NAME).write_text(json.dumps(line) + "\n")
    (outcome,) = extract_songs([song], out, model=model, show=False)
    assert outcome.outcome == "skipped"
    assert outcome.stems == {name: out / "song" / f"{name}.wav" for name in ("vocals", "accompaniment")}
    outcome.stems["vocals"].unlink()
    (outcome,) = extract_songs([song], out, model=model, show=False)
    assert outcome.outcome == "done", "what stands there still is what the first version made"


def test_other_stems_of_a_song_are_made_beside_those_that_are_there(tmp_path, make_song, model):
    song, out = make_song("song.wav"), tmp_path / "out"

    def extract(**options):
        (outcome,) = extract_songs([song], out, model=model, show=False, **options)
        return outcome.outcome, list(outcome.stems)

    assert extract(stems=["vocals"]) == ("done", ["vocals"])
    assert files_in(out) == {"song/vocals.wav", MANIFEST_NAME}
    assert extract() == ("done", ["vocals", "accompaniment"])
    assert extract(stems=["vocals"]) == ("skipped", ["vocals"])
    assert extract(without=["vocals"]) == ("skipped", ["accompaniment"])


def test_two_formats_of_a_song_are_both_known(tmp_path, make_song, model):
    song, out = make_song("song.wav"), tmp_path / "out"

    def extract(name):
        (outcome,) = extract_songs([song], out, model=model, settings=ExtractionSettings(format=name), show=False)
        return outcome.outcome

    assert [extract(name) for name in ("wav16", "flac", "wav16", "flac")] == ["done", "done", "skipped", "skipped"]


def test_a_manifest_that_cannot_be_read_or_written(tmp_path, make_song, model):
    song, out = make_song("song.wav"), tmp_path / "out"
    (out / MANIFEST_NAME).mkdir(parents=True)
    with pytest.raises(ExtractionError, match=r"Cannot read .*manifest"):
        extract_songs([song], out, model=model, show=False)


def test_a_manifest_that_cannot_be_written(tmp_path, make_song, model, monkeypatch):
    song, out = make_song("song.wav"), tmp_path / "out"
    real_open = open

    def full(path, mode="r", *arguments, **options):
        if mode == "ab+" and path.name == MANIFEST_NAME:
            raise OSError(28, "No space left on device")
        return real_open(path, mode, *arguments, **options)

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(ExtractionError, match=r"Cannot write the manifest .*No space"):
        extract_vocals(song, out, model=model)
    settings = ExtractionSettings(overwrite=True)
    (outcome, missing) = extract_songs([song, tmp_path / "x"], out, model=model, settings=settings, show=False)
    assert outcome.failed
    assert "Cannot write the manifest" in str(outcome)
    assert "There is no file" in str(missing)
