"""The manifest of a folder of stems: torn lines, full disks, kills at the worst moment, two runs at once."""

import contextlib
import dataclasses
import os

import pytest
from extraction_models import ConstantMask, files_in, loaded, records, stems_of

from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction import batch, extract_songs, extract_vocals
from vocal_extraction.extraction.manifest import MANIFEST_NAME, Manifest
from vocal_extraction.settings import ExtractionSettings

RATE = 44_100


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
def test_stems_of_a_run_that_was_killed_before_it_could_tell_are_known_as_its_own(
    tmp_path, make_song, model, monkeypatch, rename
):
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


def test_an_old_stem_does_not_pass_for_the_new_one_that_was_announced(tmp_path, make_song, model, monkeypatch):
    song, out, binary = make_song("song.wav"), tmp_path / "out", ExtractionSettings(mask="binary", overwrite=True)
    (outcome,) = extract_songs([song], out, model=model, show=False)
    for stem in (outcome.vocals, outcome.accompaniment):
        os.utime(stem, (1e9, 1e9))
    with monkeypatch.context() as killed:
        stop_at(killed, 1)
        with contextlib.suppress(KeyboardInterrupt):
            extract_songs([song], out, model=model, settings=binary, show=False)
    (outcome,) = extract_songs(
        [song], out, model=model, settings=dataclasses.replace(binary, overwrite=False), show=False
    )
    assert outcome.failed, "asked for a binary mask, and what stands there is of a soft one"


def between(monkeypatch, act):
    """Let something happen when a song's stems are whole, but have no names."""
    real_announce = Manifest.announce
    real_read_on = Manifest.read_on

    def read_on(self):
        monkeypatch.setattr(Manifest, "read_on", real_read_on)
        monkeypatch.setattr(Manifest, "announce", real_announce)
        act()
        real_read_on(self)

    def begin(*arguments, **options):
        monkeypatch.setattr(Manifest, "read_on", read_on)
        return real_extract_song(*arguments, **options)

    real_extract_song = batch.extract_song
    monkeypatch.setattr("vocal_extraction.extraction.batch.extract_song", begin)
    return lambda: monkeypatch.setattr("vocal_extraction.extraction.batch.extract_song", real_extract_song)


def test_two_runs_that_want_one_place_do_not_replace_each_others_stems(tmp_path, make_song, model, monkeypatch):
    one, other, out = make_song("one/Song.wav", seed=1), make_song("other/Song.wav", seed=2), tmp_path / "out"

    def meanwhile():
        undo()
        (outcome,) = extract_songs([other], out, model=model, show=False)
        assert outcome.outcome == "done"

    undo = between(monkeypatch, meanwhile)
    (outcome,) = extract_songs([one], out, model=model, show=False)
    assert outcome.failed
    assert "exist already" in outcome.reason
    (outcome,) = extract_songs([one], out, model=model, show=False)
    assert outcome.vocals == out / "Song (2)" / "vocals.wav"
    assert files_in(out) == stems_of("Song", "Song (2)")


def test_two_runs_of_the_same_song_agree(tmp_path, make_song, model, monkeypatch):
    song, out = make_song("song.wav"), tmp_path / "out"

    def meanwhile():
        undo()
        extract_songs([song], out, model=model, show=False)

    undo = between(monkeypatch, meanwhile)
    (outcome,) = extract_songs([song], out, model=model, show=False)
    assert outcome.outcome == "skipped"
    assert [record["outcome"] for record in records(out)] == ["done", "skipped"]


def test_a_place_that_another_run_announced_first_is_given_up(tmp_path, make_song, model):
    one, other, out = make_song("one/Song.wav"), make_song("other/Song.wav"), tmp_path / "out"
    (outcome,) = extract_songs([other], out, model=model, show=False)
    manifest = Manifest(out)
    with pytest.raises(ExtractionError, match="place of another song"):
        manifest.announce(
            dataclasses.replace(outcome, file=str(one)), [outcome.vocals, outcome.accompaniment], options={}
        )


def test_a_manifest_that_cannot_be_read_or_written(tmp_path, make_song, model):
    song, out = make_song("song.wav"), tmp_path / "out"
    (out / MANIFEST_NAME).mkdir(parents=True)
    with pytest.raises(ExtractionError, match=r"Cannot read .*manifest"):
        extract_songs([song], out, model=model, show=False)


def test_a_manifest_that_cannot_be_written(tmp_path, make_song, model, monkeypatch):
    song, out = make_song("song.wav"), tmp_path / "out"
    real_open = open

    def full(path, mode="r", *arguments, **options):
        if mode == "ab":
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
