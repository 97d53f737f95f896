"""Catalogues: lists, shards, addresses, manifests, on a file system in memory."""

import json
import sys

import pytest
from extraction_models import ConstantMask, files_in, loaded, records

from vocal_extraction.errors import ExtractionError, SettingsError
from vocal_extraction.extraction import addresses, catalogue, workers
from vocal_extraction.extraction.catalogue import extract_catalogue, merge_manifests
from vocal_extraction.extraction.shards import Shard
from vocal_extraction.settings import ExtractionSettings

fsspec = pytest.importorskip("fsspec")

pytestmark = pytest.mark.usefixtures("one_thread", "in_this_process")


@pytest.fixture(scope="module")
def model():
    return loaded(ConstantMask(0.25))


class InThisProcess:
    """A worker that shares this process, and so its file system in memory."""

    def __init__(self, work):
        self._do = work.prepare(lambda: False)

    def __call__(self, task):
        return self._do(task)

    def stop(self):
        pass

    close = stop


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(workers, "ProcessWorker", InThisProcess)
    monkeypatch.setattr(addresses, "_PAUSES_S", (0, 0, None))
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def put(system, song, place):
    system.pipe_file(place, song.read_bytes())
    return f"memory://{place}"


def lines_at(system, place):
    return [json.loads(line) for line in system.cat_file(place).decode().splitlines()]


def test_songs_and_stems_at_addresses(in_this_process, make_song, model):
    for number in range(2):
        put(in_this_process, make_song(f"{number}.wav", seed=number), f"/in/CD 1/Song #{number}.wav")
    in_this_process.pipe_file("/in/cover.jpg", b"no song")
    totals = extract_catalogue(["memory://in"], "memory://out/", model=model, show=False)
    assert (totals.done, totals.skipped, totals.failures.total()) == (2, 0, 0)
    lines = lines_at(in_this_process, "/out/manifest.jsonl")
    assert {line["source"] for line in lines} == {f"memory:///in/CD 1/Song #{number}.wav" for number in range(2)}
    for line in lines:
        for stem, address in line["stems"].items():
            assert address.endswith(f"/{line['source'][-11:-4]}/{stem}.wav")
            assert in_this_process.cat_file(address)[:4] == b"RIFF"
    assert len(in_this_process.find("/out")) == 5, "no more than stems and a manifest"
    again = extract_catalogue(["memory://in"], "memory://out", model=model, show=False)
    assert (again.done, again.skipped) == (0, 2)


def test_what_is_done_is_known_without_a_look_at_songs_or_stems(in_this_process, make_song, model):
    song = put(in_this_process, make_song("a.wav"), "/in/a.wav")
    extract_catalogue([song], "memory://out", model=model, show=False)
    in_this_process.rm("/in", recursive=True)
    assert extract_catalogue([song], "memory://out", model=model, show=False).skipped == 1
    binary = ExtractionSettings(mask="binary")
    totals = extract_catalogue([song], "memory://out", model=model, settings=binary, show=False)
    assert list(totals.failures) == ["Cannot read the song. It is not there, or no longer."]


def test_one_bad_song_does_not_stop_the_rest(in_this_process, make_song, model, tmp_path, capsys):
    (tmp_path / "bad.wav").write_text("no song")
    listed = [put(in_this_process, make_song("a.wav"), "/a.wav"), "memory://missing.wav", str(tmp_path / "bad.wav")]
    (tmp_path / "songs.txt").write_text("\n".join([*listed, "", "unknown://x.wav"]))
    totals = extract_catalogue([], tmp_path / "out", list_path=tmp_path / "songs.txt", model=model, n_jobs=2)
    assert totals.done == 1
    reasons = {line["source"]: line["reason"] for line in records(tmp_path / "out")}
    assert "It is not there" in reasons["memory://missing.wav"]
    assert "No such kind of address" in reasons["unknown://x.wav"]
    assert reasons[str(tmp_path / "bad.wav")].startswith(f"{tmp_path / 'bad.wav'} ")
    assert "songs.txt" not in capsys.readouterr().err


def test_equal_songs_and_runs_give_equal_places(make_song, model, tmp_path):
    make_song("in/a/Song.wav")
    make_song("in/b/Song.wav")
    make_song("in/c/Song.wav", seed=1)
    for number in range(2):
        assert extract_catalogue([tmp_path / "in"], tmp_path / f"out{number}", model=model, show=False).done == 3
    assert files_in(tmp_path / "out0") == files_in(tmp_path / "out1")
    assert len(files_in(tmp_path / "out0")) == 5, "two songs are one"


def test_temporary_folders_of_catalogues_that_were_killed_are_removed(make_song, model, tmp_path, monkeypatch):
    song = make_song("song.wav")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    abandoned = tmp_path / "tmp" / "vocal-extraction-catalogue-killed" / "song-killed"
    abandoned.mkdir(parents=True)
    (abandoned.parent / "in-use").touch()
    extract_catalogue([song], "memory://out", model=model, show=False)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_leftovers_are_removed_that_appear_while_a_song_is_done_again(make_song, model, tmp_path, monkeypatch):
    separated, leftovers = catalogue.extract_song, []

    def extract(song, paths, *others, **more):
        outcome = separated(song, paths, *others, **more)
        leftovers.append(paths["vocals"].with_name(".partial-999999999-0-vocals.wav"))
        leftovers[0].write_bytes(b"half")
        return outcome

    monkeypatch.setattr(catalogue, "extract_song", extract)
    extract_catalogue([make_song("song.wav")], tmp_path / "out", model=model, show=False)
    assert [leftover.exists() for leftover in leftovers] == [False]


def test_shards_do_each_song_once_and_are_merged(make_song, model, tmp_path, monkeypatch):
    songs = [make_song(f"in/{number}.wav", seed=number) for number in range(6)]
    for index in range(3):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        extract_catalogue([tmp_path / "in"], tmp_path / "out", shard="auto/3", model=model, show=False)
    manifests = sorted((tmp_path / "out").glob("*.jsonl"))
    assert [path.name for path in manifests] == [f"manifest-0000{index}-of-00003.jsonl" for index in range(3)]
    songs_of = [{json.loads(line)["source"] for line in path.read_text().splitlines()} for path in manifests]
    assert set.union(*songs_of) == set(map(str, songs))
    assert sum(map(len, songs_of)) == 6
    totals = merge_manifests(tmp_path / "out")
    assert (totals.done, totals.failures.total()) == (6, 0)
    assert merge_manifests(tmp_path / "out").done == len(records(tmp_path / "out")) == 6
    manifests[1].unlink()
    assert list(merge_manifests(tmp_path / "out").failures) == ["the manifest of shard 1 of 3 is missing"]


SLURM = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "6"}


def test_manifests_of_a_hundred_thousand_shards_are_merged(tmp_path):
    line = {"source": "a.mp3", "outcome": "done", "seconds": 1.0, "reason": None, "duration_s": 60.0}
    (tmp_path / "manifest-00003-of-100000.jsonl").write_text(json.dumps(line))
    (tmp_path / "manifest-12345-of-100000.jsonl").write_text(json.dumps(line | {"source": "b.mp3"}))
    totals = merge_manifests(tmp_path)
    assert (totals.done, totals.failures.total()) == (2, 99_998)


@pytest.mark.parametrize(
    "text, variables, index, n_shards",
    [
        ("2/8", {}, 2, 8),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_COUNT": "4"}, 2, 4),
        ("auto/8", SLURM, 5, 8),
        ("auto/8", {"AWS_BATCH_JOB_ARRAY_INDEX": "0"}, 0, 8),
    ],
)
def test_which_shard(text, variables, index, n_shards, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Shard.parse(text) == Shard(index, n_shards)


@pytest.mark.parametrize(
    "text, variables, words",
    [
        ("8/8", {}, "counted from 0"),
        ("3", {}, "expected I/N"),
        ("1/0", {}, "counted from 0"),
        ("auto", {}, "needs one of SLURM_ARRAY_TASK_ID"),
        ("auto", {"JOB_COMPLETION_INDEX": "1"}, "auto/N"),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_COUNT": "2"}, "auto/N"),
    ],
)
def test_no_such_shard(text, variables, words, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words):
        Shard.parse(text)


def test_a_shard_without_songs_has_a_manifest(make_song, model, tmp_path):
    song = make_song("a.wav")
    empty = next(index for index in (0, 1) if not Shard(index, 2).has(str(song)))
    assert extract_catalogue([song], tmp_path / "out", shard=f"{empty}/2", model=model, show=False).done == 0
    assert extract_catalogue([song], "memory://out", shard=f"{empty}/2", model=model, show=False).done == 0
    assert extract_catalogue([song], tmp_path / "out", shard=f"{1 - empty}/2", model=model, show=False).done == 1
    assert extract_catalogue([song], "memory://out", shard=f"{1 - empty}/2", model=model, show=False).done == 1
    for output in (tmp_path / "out", "memory://out"):
        totals = merge_manifests(output)
        assert (totals.done, totals.failures) == (1, {})


def test_tables_of_songs(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    songs = ["s3://a/b.flac", "/c.wav"]
    parquet.write_table(pyarrow.table({"id": [1, 2], "path": songs}), tmp_path / "songs.parquet")
    assert list(addresses.songs_listed(tmp_path / "songs.parquet", tmp_path)) == songs
    parquet.write_table(pyarrow.table({"id": [1], "n": [2]}), tmp_path / "other.parquet")
    (tmp_path / "bad.parquet").write_text("no table")
    for name, words in (("other", "has no column address"), ("bad", "no table in Parquet")):
        with pytest.raises(ExtractionError, match=words):
            list(addresses.songs_listed(tmp_path / f"{name}.parquet", tmp_path))


def test_lists_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for place, words in (("x.parquet", "needs pyarrow"), ("x.txt", "cannot be read"), ("memory://x.txt", "not there")):
        with pytest.raises(ExtractionError, match=words):
            list(addresses.songs_listed(place if "://" in place else tmp_path / place, tmp_path))
    monkeypatch.setattr("sys.stdin", iter(["s3://b/x y.flac\n", "\n", "file:///a.mp3\n"]))
    assert list(addresses.songs_listed("-", tmp_path)) == ["s3://b/x y.flac", "/a.mp3"]


def test_what_no_catalogue_takes(tmp_path, model):
    with pytest.raises(ExtractionError, match="--list -"):
        extract_catalogue(["-"], tmp_path, model=model, show=False)
    with pytest.raises(ExtractionError, match="There is no engine 'steam'"):
        extract_catalogue(["a.wav"], tmp_path, engine="steam", model=model, show=False)
    with pytest.raises(ExtractionError, match="--shard makes them"):
        merge_manifests(tmp_path)


def test_plain_paths_do_without_fsspec(make_song, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    song = make_song("a.wav")
    totals = extract_catalogue([song, "s3://b/c.wav"], f"file://{tmp_path}/out", model=model, show=False)
    assert totals.done == 1
    (reason,) = totals.failures
    assert "pip install 'vocal-extraction[cloud]'" in reason
