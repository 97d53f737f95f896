"""A batch as a job: places, manifest, skipping, failing, stopping, standard input and output."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from extraction_models import ConstantMask, files_in, loaded, records, remembering_model, stems_of

from vocal_extraction.audio_files.decoding import SongReader
from vocal_extraction.errors import ExtractionError, SongTooLongError
from vocal_extraction.extraction import Outcome, extract_songs, extract_vocals
from vocal_extraction.extraction.manifest import MANIFEST_NAME
from vocal_extraction.settings import ExtractionSettings

ROOT = Path(__file__).resolve().parents[2]
RATE = 44_100


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return loaded(ConstantMask(0.25))


def test_no_more_of_a_song_is_decoded_than_its_limit(tmp_path, make_song, model, monkeypatch):
    decoded, blocks = [], SongReader.blocks

    def counted(reader):
        for block in blocks(reader):
            decoded.append(len(block))
            yield block

    monkeypatch.setattr(SongReader, "blocks", counted)
    song = make_song("song.wav", duration_s=20.0)
    with pytest.raises(SongTooLongError, match="longer than 2 s"):
        extract_vocals(song, tmp_path / "out", model=model, longest_s=2.0)
    assert 2.0 < sum(decoded) / RATE < 5.0
    assert not (tmp_path / "out" / "song").exists()
    assert extract_vocals(song, tmp_path / "out", model=model, longest_s=20.0).duration_s == 20.0


@pytest.mark.parametrize("n_jobs", [0, -1])
def test_no_jobs_do_no_songs(tmp_path, model, n_jobs):
    with pytest.raises(ExtractionError, match=f"jobs is 1 or more; got {n_jobs}"):
        extract_songs([], tmp_path, model=model, n_jobs=n_jobs)


def test_what_is_done_is_skipped_until_something_differs(tmp_path, make_song, model):
    song, out = make_song("song.wav"), tmp_path / "out"

    def run(model=model, **options):
        (outcome,) = extract_songs([song], out, model=model, settings=ExtractionSettings(**options), show=False)
        return outcome.outcome, outcome.reason or ""

    assert run()[0] == "done"
    assert run()[0] == "skipped"
    os.utime(song, (0, 0))
    assert run()[0] == "skipped", "its content is the same"
    another = loaded(ConstantMask(0.25), sha256="1" * 64)
    for outcome, reason in (run(mask="binary"), run(format="wav24"), run(model=another)):
        assert outcome == "failed"
        assert "--overwrite" in reason
    assert run(format="flac")[0] == "done", "another ending is another place"
    assert run(mask="binary", overwrite=True)[0] == "done"
    assert run(mask="binary")[0] == "skipped"
    make_song("song.wav", seed=5)
    outcome, reason = run(mask="binary")
    assert outcome == "failed"
    assert "--overwrite" in reason
    (out / "song" / "vocals.wav").unlink()
    assert run(mask="binary", overwrite=True)[0] == "done"


def test_a_stem_that_was_lost_is_made_again(tmp_path, make_song, model):
    song, out = make_song("song.wav"), tmp_path / "out"
    extract_songs([song], out, model=model, show=False)
    shutil.rmtree(out / "song")
    (outcome,) = extract_songs([song], out, model=model, show=False)
    assert outcome.outcome == "done"
    assert files_in(out) == stems_of("song")


def test_what_others_wrote_is_never_replaced_unasked(tmp_path, make_song, model):
    song, mine = make_song("song.wav"), tmp_path / "out" / "song" / "vocals.wav"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    (outcome,) = extract_songs([song], tmp_path / "out", model=model, show=False)
    assert outcome.failed
    assert "exist" in str(outcome)
    assert mine.read_text() == "mine"
    with pytest.raises(ExtractionError, match="--overwrite"):
        extract_vocals(song, tmp_path / "out", model=model)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_one_bad_song_does_not_stop_the_rest(tmp_path, make_song, model, n_jobs, capsys):
    make_song("in/a.wav")
    (tmp_path / "in" / "b.mp3").write_text("no song")
    make_song("in/deep/er/c.wav")
    (tmp_path / "in" / "cover.jpg").write_bytes(b"ignored")
    make_song("in/.hidden/d.wav")
    out = tmp_path / "in" / "out"
    inputs = [tmp_path / "in", tmp_path / "missing.wav", tmp_path / "in" / "a.wav"]
    outcomes = extract_songs(inputs, out, model=model, n_jobs=n_jobs)
    assert [(Path(outcome.file).name, outcome.outcome) for outcome in outcomes] == [
        ("a.wav", "done"),
        ("b.mp3", "failed"),
        ("c.wav", "done"),
        ("missing.wav", "failed"),
    ]
    assert files_in(out) == stems_of("a", "deep/er/c")
    by_name = {Path(record["file"]).name: record for record in records(out)}
    assert by_name["a.wav"]["outcome"] == "done"
    assert by_name["a.wav"]["seconds"] > 0
    assert "no audio" in by_name["b.mp3"]["reason"]
    assert "no file" in by_name["missing.wav"]["reason"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "b.mp3: failed" in printed.err
    # Stems below the input folder are no songs of the second run.
    again = extract_songs(inputs, out, model=model, show=False)
    assert [outcome.outcome for outcome in again] == ["skipped", "failed", "skipped", "failed"]


def test_a_folder_without_songs(tmp_path, model):
    (tmp_path / "in").mkdir()
    with pytest.raises(ExtractionError, match="holds no audio files"):
        extract_songs([tmp_path / "in"], tmp_path / "out", model=model, show=False)


def test_a_song_that_would_be_replaced_is_spared(tmp_path, make_song, model):
    inner = make_song("out/song/vocals.wav")
    song = make_song("song.wav", seed=3)
    before = inner.read_bytes()
    settings = ExtractionSettings(overwrite=True)
    outcomes = extract_songs([song, inner], tmp_path / "out", model=model, settings=settings, show=False)
    assert outcomes[0].failed
    assert "would be replaced" in str(outcomes[0])
    assert inner.read_bytes() == before


@pytest.mark.parametrize(
    "format_name, peak, is_noted", [("wav16", 1e-3, True), ("wav16", 0.1, False), ("wav24", 1e-3, False)]
)
def test_sixteen_bits_that_are_coarse_are_noted(tmp_path, model, format_name, peak, is_noted):
    samples = np.random.default_rng(0).uniform(-peak, peak, (4_410, 2))
    soundfile.write(tmp_path / "song.wav", samples, 44_100, subtype="FLOAT")
    settings = ExtractionSettings(format=format_name)
    outcome = extract_songs([tmp_path / "song.wav"], tmp_path / "out", model=model, settings=settings, show=False)[0]
    assert any("-60 dB at its loudest" in note and "wav24" in note for note in outcome.notes) == is_noted


def test_leftovers_of_a_killed_run_are_removed(tmp_path, make_song, model):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".partial-999999999-0-vocals.wav").write_text("half")
    extract_songs([make_song("song.wav")], out, model=model, show=False)
    assert files_in(out) == stems_of("song")


def test_standard_output_takes_one_song(make_song, model):
    with pytest.raises(ExtractionError, match="one song, got 2"):
        extract_songs([make_song("a.wav"), make_song("b.wav")], "-", model=model, show=False)


def test_an_outcome_is_plain_data(tmp_path):
    outcome = Outcome("a.wav", "done", 1.23456, stems={"vocals": tmp_path / "v.wav"}, notes=("one", "two"), scale=0.5)
    assert json.loads(json.dumps(outcome.as_record()))["stems"] == {"vocals": str(tmp_path / "v.wav")}
    assert str(outcome).splitlines()[1:] == ["  one.", "  two."]


@pytest.fixture
def standard_input():
    """Give a file to this process, and to the programs that it starts, as standard input."""
    before = os.dup(0)

    def give(path):
        source = os.open(path, os.O_RDONLY)
        os.dup2(source, 0)
        os.close(source)

    yield give
    os.dup2(before, 0)
    os.close(before)


def test_from_standard_input_to_standard_output(make_song, model, standard_input, capfdbinary):
    song = make_song("song.wav", duration_s=1.0)
    standard_input(song)
    (outcome,) = extract_songs(["-"], "-", model=model)
    written = capfdbinary.readouterr()
    assert str(outcome).startswith("-: done in")
    assert str(outcome).endswith("standard output")
    assert written.out[:4] == b"RIFF"
    vocals = np.frombuffer(written.out[written.out.index(b"data") + 8 :], np.float32)
    np.testing.assert_allclose(vocals, 0.25 * soundfile.read(song)[0], atol=1e-6)


def test_from_standard_input_to_files(tmp_path, make_song, model, standard_input):
    standard_input(make_song("song.wav"))
    (outcome,) = extract_songs(["-"], tmp_path / "out", model=model, show=False)
    assert not outcome.failed
    assert files_in(tmp_path / "out") == stems_of("stdin")


def test_a_file_called_minus_is_not_taken_for_standard_input(tmp_path, make_song, model, standard_input, monkeypatch):
    """Its checksum stood in the manifest, so that another song on standard input would have counted as done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text("a file")
    standard_input(make_song("song.wav"))
    extract_songs(["-"], tmp_path / "out", model=model, show=False)
    assert json.loads((tmp_path / "out/manifest.jsonl").read_text())["source_sha256"] is None


def test_nothing_on_standard_input(tmp_path, model, standard_input):
    standard_input(os.devnull)
    (outcome,) = extract_songs(["-"], tmp_path / "out", model=model, show=False)
    assert outcome.failed
    assert "Standard input could not be decoded" in outcome.reason


@contextlib.contextmanager
def small_files():
    """Limit the size of files, which meets this program and ffmpeg as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name, is_layered", [("wav16", False), ("float", False), ("flac", False), ("wav16", True)])
def test_a_full_disk_leaves_no_half_file(tmp_path, make_song, model, name, is_layered):
    song = make_song("song.wav", duration_s=5.0)
    model = remembering_model("MaskInference") if is_layered else model
    settings = ExtractionSettings(format=name)
    with small_files():
        (outcome,) = extract_songs([song], tmp_path / "out", model=model, settings=settings, show=False)
    assert outcome.failed
    assert "Cannot write" in outcome.reason
    assert files_in(tmp_path / "out") == {MANIFEST_NAME}
    assert [record["outcome"] for record in records(tmp_path / "out")] == ["failed"]


MEMORY_PROGRAM = """
import resource, sys
sys.path[:0] = {paths!r}
import torch
from extraction_models import ConstantMask, loaded, remembering_model
from vocal_extraction.extraction import extract_songs
torch.set_num_threads(1)
for name in ("short", "long"):
    extract_songs([f"{folder}/{{name}}.wav"], "{folder}/out", model={model}, show=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("model", ["remembering_model('MaskInference')"])
def test_memory_does_not_grow_with_the_song(tmp_path, model):
    """What a network knows of three more minutes is 60 MB, a good part of what the process takes."""
    for name, duration_s in (("short", 20), ("long", 200)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(duration_s * RATE, np.int16), RATE)
    code = MEMORY_PROGRAM.format(paths=[str(ROOT), str(ROOT / "tests")], folder=tmp_path, model=model)
    # What the C library holds back of freed memory, for arrays to come, is not the song's.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, env=environment
    )
    short, long = map(int, run.stdout.split())
    assert len(files_in(tmp_path / "out")) == 5
    assert long < 1.1 * short


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_leaves_whole_files_and_the_next_run_does_the_rest(tmp_path, make_song, model, n_jobs):
    songs = [make_song("a.wav"), *(tmp_path / f"{name}.wav" for name in "bcd")]
    soundfile.write(songs[1], np.zeros(1_200 * RATE, np.int16), RATE)
    for song in songs[2:]:
        os.link(songs[1], song)
    out = tmp_path / "out"

    def press_ctrl_c():
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not ((out / "a" / "vocals.wav").exists() and (out / "b").exists()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press_ctrl_c)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        extract_songs(songs, out, model=model, n_jobs=n_jobs, show=False)
    presser.join()
    done = {Path(record["file"]).stem for record in records(out) if record["outcome"] == "done"}
    assert "a" in done
    assert len(done) < 4
    assert files_in(out) == stems_of(*done)
    for song in songs[1:]:
        song.unlink()
        soundfile.write(song, np.zeros(RATE // 10), RATE)
    rest = [song for song in songs if song.stem not in done]
    outcomes = extract_songs(songs, out, model=model, show=False)
    assert [outcome.outcome for outcome in outcomes if Path(outcome.file) in rest] == ["done"] * len(rest)


@pytest.mark.parametrize("song", [None, 3, np.zeros((2, 9))])
def test_what_is_no_path_is_named(tmp_path, song):
    with pytest.raises(ExtractionError, match=f"The song is a {type(song).__name__}, expected the path of a file"):
        extract_vocals(song, tmp_path)


def test_one_song_may_be_given_without_a_list(tmp_path):
    (outcome,) = extract_songs(str(tmp_path / "nothing.wav"), tmp_path, show=False)
    assert outcome.failed
    assert "There is no file" in outcome.reason
