"""Which songs a folder holds, and where their stems go: links, names, mirrored folders, templates with tags."""

import io
import os
import subprocess
import sys

import pytest
from extraction_models import ConstantMask, files_in, loaded, stems_of

from vocal_extraction.errors import ExtractionError, SettingsError
from vocal_extraction.extraction import extract_songs, folder_job
from vocal_extraction.extraction.naming import choose_paths, find_songs, song_name
from vocal_extraction.extraction.outcome import Outcome, ProgressBars
from vocal_extraction.settings import ExtractionSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return loaded(ConstantMask(0.25))


@pytest.fixture
def tagged(make_song, tmp_path):
    """Write a song with tags."""

    def write(name, **tags):
        arguments = [part for tag, value in tags.items() for part in ("-metadata", f"{tag}={value}")]
        command = ["ffmpeg", "-v", "error", "-i", str(make_song("plain.wav")), *arguments, str(tmp_path / name)]
        subprocess.run(command, check=True)
        return tmp_path / name

    return write


def place_of(song, template, tmp_path):
    """Where the vocals of a song go, below the output folder."""
    settings = ExtractionSettings(output_template="{folder}/" + template)
    out = tmp_path / "out"
    paths = choose_paths(
        song, ["vocals"], output_folder=out, settings=settings, owners={}, inputs=(), model_name="studio"
    )
    path = paths["vocals"]
    assert ".." not in path.parts
    return path.relative_to(out).as_posix()


def test_linked_folders_are_searched_without_loops(tmp_path, make_song):
    song = make_song("elsewhere/Album/song.wav")
    other = make_song("in/disc/other.wav")
    (tmp_path / "in" / "linked").symlink_to(song.parent)
    (song.parent / "round").symlink_to(song.parent)
    (song.parent / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    found = find_songs([tmp_path / "in"], output_folder=tmp_path / "out")
    assert list(found) == [other, tmp_path / "in" / "linked" / "song.wav"]


def test_names_without_an_ending_are_kept():
    named = {"Vol. 1": "Vol. 1", "Vol. 2": "Vol. 2", "No.5 (feat. X)": "No.5 (feat. X)", "no ending": "no ending"}
    cut = {"Mr. Blue.FLAC": "Mr. Blue", "clip.mkv": "clip", "a.b.wav": "a.b", "Vol. 1.mp3": "Vol. 1"}
    assert {name: song_name(f"folder.d/{name}") for name in named | cut} == named | cut


def test_songs_without_an_ending_are_found_in_folders(tmp_path, make_song):
    songs = [make_song(f"Album/{name}") for name in ("No.5 (feat. X)", "Vol. 1", "Vol.2", "song.wav")]
    for other in ("README", "cover.jpg", "Notes 1.5"):
        (tmp_path / "Album" / other).write_text("no sound")
    (tmp_path / "Album" / "empty").touch()
    assert list(find_songs([tmp_path / "Album"], output_folder=tmp_path / "out")) == songs


def test_songs_are_named_as_they_are_done_so_that_ctrl_c_loses_no_line(tmp_path, make_song, model, monkeypatch):
    """Also into a pipe, where there is no bar."""
    first, second = make_song("1.wav"), make_song("2.wav")
    separate, lines = folder_job.extract_song, io.StringIO()

    def stopped(song, *arguments, **options):
        if song == second:
            raise KeyboardInterrupt
        return separate(song, *arguments, **options)

    monkeypatch.setattr(folder_job, "extract_song", stopped)
    with pytest.raises(KeyboardInterrupt):
        extract_songs([first, second], tmp_path / "out", model=model, show=False, results=lines)
    assert lines.getvalue().startswith(f"{first}: done in ")


def test_folders_are_mirrored(tmp_path, make_song, model):
    for name in ("CD1/01.wav", "CD2/01.wav", "Bonus.wav"):
        make_song(f"Album/{name}")
    (*_, again) = (extract_songs([tmp_path / "Album"], tmp_path / "out", model=model, show=False) for _ in range(2))
    assert files_in(tmp_path / "out") == stems_of("CD1/01", "CD2/01", "Bonus")
    assert {outcome.outcome for outcome in again} == {"skipped"}


def test_tags_place_the_stems(tmp_path, tagged):
    song = tagged("file.flac", artist="AC/DC", title="Back: in Black?", album="../..", track="3/12")
    template = "{artist}/{album}/{track} {title} [{song}, {model}]/{stem}.{ext}"
    assert place_of(song, template, tmp_path) == "AC_DC/_/03 Back_ in Black_ [file, studio]/vocals.wav"


@pytest.mark.parametrize("name", ["file.mp3", "missing.mp3", "-"])
def test_what_has_no_tags_has_a_place_all_the_same(tmp_path, tagged, name):
    tagged("file.mp3")
    song = "-" if name == "-" else tmp_path / name
    title = {"-": "stdin"}.get(name, name.removesuffix(".mp3"))
    place = place_of(song, "{artist}/{album}/{track} {title}.{stem}.{ext}", tmp_path)
    assert place == f"Unknown artist/Unknown album/00 {title}.vocals.wav"


def test_two_songs_of_one_title_keep_apart(tmp_path, tagged, model):
    songs = [tagged("a.flac", title="Same", artist="One"), tagged("b.flac", title="Same", artist="One")]
    settings = ExtractionSettings(output_template="{folder}/{artist}/{title}/{stem}.{ext}")
    extract_songs(songs, tmp_path / "out", model=model, settings=settings, show=False)
    assert files_in(tmp_path / "out") == stems_of("One/Same", "One/Same (2)")


def test_a_template_error_shows_the_braces_to_type():
    with pytest.raises(SettingsError, match=r"\{song\} or \{title\}.*\{stem\}.*\{ext\}"):
        ExtractionSettings(output_template="song-stem.wav")
    with pytest.raises(SettingsError, match=r"\{artist\} .*\{track\} \{model\} only"):
        ExtractionSettings(output_template="{Song}/{stem}{song}.{ext}")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, make_song, monkeypatch):
    make_song("in/song.wav")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    (tmp_path / "in" / "closed").mkdir()
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(ExtractionError, match="closed cannot be read"):
        find_songs([tmp_path / "in"], output_folder=tmp_path / "out")


@pytest.mark.parametrize("total_s", [None, 200.0])
@pytest.mark.parametrize("name", ["Cristina Vane - So You Can See.wav", "音楽" * 40 + ".wav", "two\nlines.wav"])
def test_a_progress_line_stays_in_one_line_of_a_terminal(monkeypatch, name, total_s):
    """A terminal of 80 columns breaks what is longer, and the rest of it stays there."""
    from tqdm.utils import disp_len

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda _: (80, 24))
    bars = ProgressBars(1, show=True)
    bars._options["mininterval"] = 0
    with bars.song(name) as move:
        for done_s in (0.0, 50.0, 199.0):
            move(done_s, total_s)
    bars.close()
    lines = sys.stderr.getvalue().split("\r")
    assert any("times real time" in line for line in lines)
    assert max(map(disp_len, lines)) <= 80
    assert "\n" not in sys.stderr.getvalue()


@pytest.mark.parametrize("n_reported, said", [(2, "2 of 3 songs were through.\n"), (3, "")])
def test_a_batch_that_is_stopped_says_how_far_it_came(capsys, n_reported, said):
    bars = ProgressBars(3, show=True)
    for _ in range(n_reported):
        bars.report(Outcome("song.mp3", "done"))
    bars.close()
    assert capsys.readouterr().err == said
