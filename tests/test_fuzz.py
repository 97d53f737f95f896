"""The short version of ``make stress``, and what the long one found, each bug by its name."""

import struct
from pathlib import Path

import pytest
import torch
from stress import victims
from stress.fuzz import TARGETS, fuzz
from stress.inputs import Target, refusing

from vocal_extraction.audio_files import decoding, probing
from vocal_extraction.command_line import commands, menu
from vocal_extraction.command_line.parser import parse
from vocal_extraction.errors import ExtractionError, SettingsError, VocalExtractionError
from vocal_extraction.extraction import extract_songs, extract_vocals
from vocal_extraction.musdb_preparation import prepare_musdb
from vocal_extraction.settings import ExtractionSettings
from vocal_extraction.training import train_model
from vocal_extraction.training.state import STATE_NAME, ResumeError, TrainingState

SHORT_RUN = 1 / 500


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_inputs_of_every_target(name):
    n_inputs = max(4, round(SHORT_RUN * TARGETS[name].n_inputs))
    assert fuzz(TARGETS[name], n_inputs=n_inputs) >= n_inputs


def test_a_full_run_has_150_000_inputs():
    assert sum(target.n_inputs for target in TARGETS.values()) >= 150_000


def test_the_fuzzer_finds_what_is_there_to_be_found():
    """An edge that breaks on one input of a few, and one that refuses without a word."""

    def breaks(given, folder):
        if 7 < given < 90:
            raise ZeroDivisionError

    def is_mute(given, folder):
        with refusing():
            raise VocalExtractionError("")

    from hypothesis import strategies as st

    with pytest.raises(ZeroDivisionError):
        fuzz(Target("breaks", lambda: st.integers(0, 1_000), breaks, 100), n_inputs=100)
    with pytest.raises(AssertionError, match="without a text"):
        fuzz(Target("is mute", st.integers, is_mute, 10), n_inputs=10)


# What was found


def test_a_decoder_that_names_no_channels_is_an_error(tmp_path, monkeypatch):
    """Its blocks could not be shaped: ValueError."""
    header = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 3, 0, 8_000, 0, 0, 32) + b"data\0\0\0\0"

    pieces = [header]
    monkeypatch.setattr(decoding.SongReader, "read", lambda *_, **__: pieces.pop() if pieces else b"")
    with pytest.raises(ExtractionError, match="0 channels at 8000 Hz"), decoding.SongReader(probing.SongFacts()):
        pass


@pytest.mark.parametrize("stream", [{}, {"codec_type": "audio"}])
def test_ffprobe_may_leave_out_what_is_usually_there(tmp_path, monkeypatch, stream):
    song = tmp_path / "song.mp3"
    song.write_bytes(b"x")
    monkeypatch.setattr(probing, "_ask_ffprobe", lambda *_: ({"streams": [stream]}, ""))
    if stream:
        facts = probing.examine(song)
        assert (facts.duration_s, facts.tags, facts.cover) == (None, {}, None)
    else:
        with pytest.raises(ExtractionError, match="holds no audio"):
            probing.examine(song)


@pytest.mark.parametrize("answer", ["~nobody-at-all/song.wav", "x" * 5_000])
def test_the_menu_survives_names_that_no_file_has(answer, monkeypatch, capsys):
    """A RuntimeError for the home of nobody, an OSError for a name that is too long."""
    answers = iter(["e", answer, "", "4"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert menu.run_menu() == 0
    assert "There is no" in capsys.readouterr().out


def test_a_failure_of_the_system_leads_back_to_the_menu(monkeypatch, capsys):
    def refuse():
        raise OSError(36, "File name too long", "x" * 300)

    answers = iter(["1", "4"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    monkeypatch.setitem(commands.COMMANDS, "train", refuse)
    assert menu.run_menu() == 0
    assert "File name too long. Look at the path" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a\0b.wav", "\ud800.wav"])
def test_names_that_no_file_can_have_are_refused(tmp_path, name):
    """They were a ValueError from the depths of the system's calls."""
    with pytest.raises(ExtractionError, match="can be the name of no file"):
        extract_vocals(name, tmp_path)


def test_a_song_with_a_name_too_long_for_the_disk_is_one_failure_among_others(tmp_path, capsys):
    (outcome,) = extract_songs(["x" * 5_000 + ".wav"], tmp_path / "out", show=False)
    assert outcome.failed
    assert "too long" in outcome.reason


@pytest.mark.parametrize("part", ["{song:9999999999}", "{song:d}", "{song!x}", "{song}\0", "{song}\ud800"])
def test_templates_that_cannot_be_filled_are_refused_before_the_first_song(part):
    """They failed only when the first song had been decoded, and one asked for ten gigabytes of blanks."""
    with pytest.raises(SettingsError, match="template"):
        ExtractionSettings(output_template=part + "{stem}.{ext}")


@pytest.mark.parametrize("option", ["--cache"])
def test_numbers_that_no_disk_holds_are_a_usage_error(option, capsys):
    """Infinitely many bytes were an OverflowError."""
    with pytest.raises(SystemExit) as end:
        parse(["train", option, "1e308"])
    assert end.value.code == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        f"train --seed {2**64}",
        "train --mixtures 10000000000000",
        "train --epochs 1000001",
        "train --workers 1025",
        "prepare --jobs 1025",
        "evaluate --jobs 1025",
        "extract song.wav --jobs 1025",
        "serve --port 70000",
    ],
)
def test_numbers_that_torch_numpy_or_the_system_do_not_take_are_a_usage_error(line, capsys):
    """They were a ValueError of torch's, a MemoryError of NumPy's and an OverflowError of the socket."""
    with pytest.raises(SystemExit) as end:
        parse(line.split())
    assert end.value.code == 2
    assert "or less, got" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        *({"seed": 2**64}, {"seed": -1}, {"seed": 1.5}, {"seed": "a"}),
        *({"maximum_number_of_mixtures": each} for each in (10**13, "100", 10.5, True)),
        *({"n_epochs": 10**400}, {"n_epochs": "3"}, {"n_batches": 2.5}),
    ],
)
def test_the_same_numbers_from_python_are_a_settings_error(tmp_path, options):
    with pytest.raises(SettingsError, match=r"expected a whole number from 0 to|to a million|expected int"):
        train_model(dataset_folder=tmp_path, checkpoint_folder=tmp_path / "out", device="cpu", **options)
    assert not (tmp_path / "out").exists()


def test_the_songs_go_through_the_layers_of_a_network():
    """A stand-in without layers left out the way that both shipped networks take."""
    from stress.audio_targets import _model

    from vocal_extraction.separation.torch_runtime import layerwise_network

    assert layerwise_network(_model().network) is not None


@pytest.mark.parametrize(
    "data", [b"\x80\x02}b.", b"\x80\x02t.", b"\x80\x02K\x03K\x04\x85R.", b"tK\x03\x04\0\0\x08\x08"]
)
def test_a_training_state_whose_pickle_ends_too_early_cannot_be_resumed_from(tmp_path, data):
    """torch takes what is no archive for a file of before 1.6, and its machine ran out of stack: IndexError."""
    run = TrainingState(victims.PRESET, seed=0, device=torch.device("cpu"))
    (tmp_path / STATE_NAME).write_bytes(data)
    with pytest.raises(ResumeError, match="cannot be resumed from"):
        run.load(tmp_path)


@pytest.mark.parametrize("record", ['{"train/A": NaN}', '{"train/A": 1e999}', "[1]"])
def test_a_record_of_sources_that_json_does_not_hold_is_passed_over(tmp_path, record):
    """What was read as not a number could not be written back: ValueError."""
    from vocal_extraction.demo_songs import write_demo_songs
    from vocal_extraction.musdb_preparation import song_paths

    write_demo_songs(tmp_path / "dataset", n_train=0, n_valid=0, n_test=1, duration_s=1.0)
    (name,) = (path.stem for path in (tmp_path / "dataset/test/mixture").glob("*.wav"))
    source = tmp_path / "hq" / "test" / name
    source.mkdir(parents=True)
    for stream, path in song_paths(tmp_path / "dataset", "test", name).items():
        (source / f"{stream}.wav").write_bytes(Path(path).read_bytes())
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "sources.json").write_text(record)
    assert prepare_musdb(tmp_path / "hq", tmp_path / "new", progress=False)["test"] == 1
