"""Names of songs and stems: odd, equal, or too long ones, templates, and which files of a folder are songs."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from extraction_models import ConstantMask, files_in, loaded, records, stems_of

from vocal_extraction.errors import SettingsError
from vocal_extraction.extraction import extract_songs
from vocal_extraction.extraction.naming import find_songs, song_name
from vocal_extraction.settings import ExtractionSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return loaded(ConstantMask(0.25))


UGLY = (
    "Gänge überall.wav",
    "ночь & день.wav",
    'it\'s "quoted" `x` $HOME;.wav',
    "-rf --help.wav",
    "a:b|c%03d.wav",
    "new\nline.wav",
    "  spaces .wav",
    "{braces} {song}.wav",
    "x" * 240 + ".wav",
    "日" * 80 + ".wav",
    "...wav",
    "no ending",
)


def test_names_of_any_kind(tmp_path, make_song, model, monkeypatch):
    songs = [make_song(f"in/{name}") for name in UGLY]
    monkeypatch.chdir(tmp_path / "in")
    outcomes = extract_songs([path.name for path in songs], tmp_path / "out", stems=["vocals"], model=model, show=False)
    assert [outcome.reason for outcome in outcomes] == [None] * len(UGLY)
    assert len({outcome.stems["vocals"] for outcome in outcomes}) == len(UGLY)
    for song, outcome in zip(songs, outcomes, strict=True):
        assert outcome.stems["vocals"].is_relative_to(tmp_path / "out")
        assert ".." not in outcome.stems["vocals"].parts
        np.testing.assert_allclose(
            soundfile.read(outcome.stems["vocals"])[0], 0.25 * soundfile.read(song)[0], atol=1e-3
        )
    assert [record["file"] for record in records(tmp_path / "out")] == list(UGLY)


def test_names_that_are_not_unicode(tmp_path, make_song, model):
    song = make_song("song.wav").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    (outcome,) = extract_songs([song], tmp_path / "out", model=model, show=False)
    assert not outcome.failed
    (again,) = extract_songs([song], tmp_path / "out", model=model, show=False)
    assert again.outcome == "skipped"


def test_long_names_differ_where_they_are_cut(tmp_path, make_song, model):
    songs = [make_song("y" * 230 + f"{number}.wav", seed=number) for number in (1, 2)]
    settings = ExtractionSettings(output_template="{folder}/{song}-{stem}.{ext}")
    outcomes = extract_songs(songs, tmp_path / "out", model=model, settings=settings, show=False)
    for song, outcome in zip(songs, outcomes, strict=True):
        np.testing.assert_allclose(
            soundfile.read(outcome.stems["vocals"])[0], 0.25 * soundfile.read(song)[0], atol=1e-3
        )


def test_two_songs_of_one_name_keep_apart(tmp_path, make_song, model):
    one, other = make_song("one/Song.wav", seed=1), make_song("other/Song.wav", seed=2)
    same = Path(shutil.copy(one, make_song("same/song.wav")))
    out = tmp_path / "out"
    assert [outcome.outcome for outcome in extract_songs([one], out, model=model, show=False)] == ["done"]
    outcomes = extract_songs([other, same, one], out, model=model, show=False)
    assert [outcome.outcome for outcome in outcomes] == ["done", "done", "skipped"]
    assert files_in(out) == stems_of("Song", "Song (2)", "song (3)")
    for song, outcome in zip((other, same, one), outcomes, strict=True):
        np.testing.assert_allclose(
            soundfile.read(outcome.stems["vocals"])[0], 0.25 * soundfile.read(song)[0], atol=1e-3
        )
    again = extract_songs([tmp_path / "other", tmp_path / "one"], out, model=model, show=False)
    assert [(outcome.outcome, outcome.stems["vocals"].parent.name) for outcome in again] == [
        ("skipped", "Song (2)"),
        ("skipped", "Song"),
    ]


@pytest.mark.parametrize("template", ["{folder}/{song}/{stem}.{ext}", "{folder}/{song} ({stem}).{ext}"])
def test_stems_beside_their_songs_are_no_songs(tmp_path, make_song, model, template):
    make_song("Albums/first/a.wav")
    settings = ExtractionSettings(output_template=template)

    def run(song):
        outcomes = extract_songs([song], tmp_path / "Albums", model=model, settings=settings, show=False)
        return [(Path(outcome.file).name, outcome.outcome) for outcome in outcomes]

    assert run(tmp_path / "Albums") == [("a.wav", "done")]
    make_song("Albums/b.wav", seed=1)
    assert run(tmp_path / "Albums") == [("b.wav", "done"), ("a.wav", "skipped")]
    assert run(tmp_path / "Albums") == [("b.wav", "skipped"), ("a.wav", "skipped")]
    vocals = tmp_path / "Albums/first" / ("a/vocals.wav" if "/{stem}" in template else "a (vocals).wav")
    assert run(vocals) == [(vocals.name, "done")], "what is named is a song"


@pytest.mark.parametrize(
    "template",
    [
        "{folder}/{song}.{ext}",
        "{stem}.{ext}",
        "{folder}/{song}/{stem}",
        "{artist}/{stem}.{ext}",
        "{x}{song}{stem}{ext}",
        "{",
    ],
)
def test_templates_that_would_mix_things_up(template):
    with pytest.raises(SettingsError, match="template"):
        ExtractionSettings(output_template=template)


def test_a_template_places_the_stems(tmp_path, make_song, model):
    settings = ExtractionSettings(output_template="{folder}/{stem}/{song}.{ext}", format="flac")
    (outcome,) = extract_songs([make_song("a.b.wav")], tmp_path / "out", model=model, settings=settings, show=False)
    assert outcome.stems["vocals"] == tmp_path / "out" / "vocals" / "a.b.flac"
    assert outcome.stems["accompaniment"] == tmp_path / "out" / "accompaniment" / "a.b.flac"


def test_a_template_without_the_folder_lies_below_it(tmp_path, make_song, model):
    settings = ExtractionSettings(output_template="{stem}/{song}.{ext}")
    (outcome,) = extract_songs([make_song("a.wav")], tmp_path / "out", model=model, settings=settings, show=False)
    assert outcome.stems["vocals"] == tmp_path / "out" / "vocals" / "a.wav"


@pytest.mark.parametrize("template", ["{folder}/{song}/{stem", "{song:d}{stem}{ext}"])
def test_a_brace_too_few_is_named_as_such(template):
    with pytest.raises(SettingsError, match=r"pairs of braces.*Got output template '.*'\.$") as caught:
        ExtractionSettings(output_template=template)
    assert "must hold" not in str(caught.value)


def test_each_song_is_found_once(tmp_path, make_song):
    song = make_song("in/b.WAV")
    make_song("in/a.mp3")
    link = tmp_path / "link.wav"
    link.symlink_to(song)
    found = find_songs([tmp_path / "in", song, link, "-"], output_folder=tmp_path / "out")
    assert list(found) == [tmp_path / "in" / "a.mp3", song, "-"]


def test_song_names_leave_room():
    assert len(song_name("a/" + "ü" * 150 + ".wav").encode()) <= 200
