"""Stems of models with several sources: which files there are, and that they add up to the song."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch
from extraction_models import ConstantMask, files_in, loaded, music

import main
from vocal_extraction.checkpointing import load_checkpoint, save_checkpoint
from vocal_extraction.errors import ExtractionError
from vocal_extraction.extraction import extract_songs, extract_vocals
from vocal_extraction.extraction.manifest import MANIFEST_NAME
from vocal_extraction.networks import create_model
from vocal_extraction.presets import PRESETS, SPECIFIED
from vocal_extraction.settings import STEMS, ExtractionSettings

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 44_100
SUBTYPES = {"wav16": "int16", "wav24": "int32", "flac": "int32", "float": "float32"}


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """A second of stereo in 24 bits."""
    path = tmp_path_factory.mktemp("song") / "song.wav"
    soundfile.write(path, music(1.1).T, RATE, subtype="PCM_24")
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Networks with four sources and random weights."""
    torch.manual_seed(0)
    paths = {}
    for preset in (SPECIFIED, PRESETS["studio"]):
        network = dataclasses.replace(preset.network, hidden_size=6, num_layers=1)
        four = dataclasses.replace(preset, network=network, sources=STEMS)
        path = tmp_path_factory.mktemp("model") / f"{preset.name}.model.pth"
        paths[preset.name] = save_checkpoint(path, create_model(four), preset=four)
    return paths


CHOICES = [
    # Of a model with vocals, the default is vocals and accompaniment.
    ("specified", [], ("vocals", "accompaniment")),
    ("studio", ["--stems", "all"], STEMS),
    ("specified", ["--stems", "vocals"], ("vocals",)),
    ("studio", ["--stems", "vocals, drums"], ("vocals", "drums", "residual")),
    ("specified", ["--without", "drums"], ("no_drums",)),
]


@pytest.mark.parametrize("preset_name, name", [("specified", "wav16"), ("studio", "flac"), ("specified", "float")])
def test_written_stems_add_up_to_the_song(tmp_path, song, checkpoints, preset_name, name):
    """To the bit in integers; in floats to the rounding of so many sums."""
    mixture = read(song, name)
    model, settings = load_checkpoint(checkpoints[preset_name], device="cpu"), ExtractionSettings(format=name)
    found = []
    for stems, without in ((["all"], None), (["vocals", "drums"], None), (["drums"], None), (None, ["drums"])):
        out = tmp_path / "-".join(stems or without)
        options = {"stems": stems, "without": without, "model": model, "settings": settings}
        outcome = extract_vocals(song, out, **options)
        assert outcome.scale == 1.0, "a scale is a matter of another test"
        found.append({stem: read(path, name) for stem, path in outcome.stems.items()})
    every, several, drums, no_drums = found
    assert set(every) == set(STEMS)
    assert set(several) == {"vocals", "drums", "residual"}
    for stems in (every, several, {**drums, **no_drums}):
        total = sum(stem.astype(float if name == "float" else np.int64) for stem in stems.values())
        if name == "float":
            np.testing.assert_allclose(total, mixture, atol=4e-7)
        else:
            np.testing.assert_array_equal(total, mixture)
    for stems in (several, drums):
        np.testing.assert_array_equal(stems["drums"], every["drums"])
    assert np.abs(every["drums"]).max() > 0


def read(path, name):
    """Read what a format holds: (n_samples, n_channels), integers of 16 or 24 bits, or floats."""
    samples = soundfile.read(path, dtype=SUBTYPES[name])[0]
    if name == "wav16" and path.name == "song.wav":
        return np.rint(soundfile.read(path, dtype="float32")[0] * 2**15).astype(np.int64)
    return samples.astype(np.int64) >> 8 if SUBTYPES[name] == "int32" else samples


@pytest.mark.parametrize("preset_name, arguments, stems", CHOICES)
def test_the_command_line_chooses_stems(tmp_path, song, checkpoints, capsys, preset_name, arguments, stems):
    out = tmp_path / "out"
    model = ["--model", str(checkpoints[preset_name]), "--device", "cpu"]
    command = ["extract", str(song), "-o", str(out), "--json", *model, *arguments]
    assert main.main(command) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["stems"] == {stem: str(out / "song" / f"{stem}.wav") for stem in stems}
    assert files_in(out) == {MANIFEST_NAME, *(f"song/{stem}.wav" for stem in stems)}
    assert main.main(command) == 0
    assert json.loads(capsys.readouterr().out)[0]["outcome"] == "skipped"


def test_stems_that_would_clip_are_scaled_together(tmp_path):
    """Masks of -1 turn the signs of three sources, so that the fourth is four times as loud as the song."""
    source = tmp_path / "song.wav"
    mixture = (0.9 * np.sin(np.arange(RATE) / 20)).astype(np.float32)
    soundfile.write(source, mixture, RATE, subtype="FLOAT")
    model = loaded(ConstantMask(-1.0, -1.0, 5.0, -1.0), sources=STEMS)
    outcome = extract_vocals(source, tmp_path / "out", model=model, stems=["all"])
    assert outcome.scale == pytest.approx(1 / 3.6, rel=1e-3)
    stems = {stem: soundfile.read(path, dtype="int16")[0].astype(int) for stem, path in outcome.stems.items()}
    rounded = np.rint(mixture * np.float32(outcome.scale * 2**15)).astype(int)
    np.testing.assert_array_equal(sum(stems.values()), rounded)
    assert 32_700 < stems["other"].max() <= 32_767


def test_a_residual_of_other_sources_is_another_stem(tmp_path, song):
    model = loaded(ConstantMask(0.1, 0.2, 0.3, 0.4), sources=STEMS)
    (outcome,) = extract_songs([song], tmp_path, stems=["vocals", "drums"], model=model, show=False)
    assert outcome.outcome == "done"
    (outcome,) = extract_songs([song], tmp_path, stems=["vocals", "bass"], model=model, show=False)
    assert outcome.failed
    assert "residual.wav exist already, made otherwise" in outcome.reason


def test_a_stem_that_the_model_has_not_is_refused_before_anything_is_done(tmp_path, song):
    model = loaded(ConstantMask(0.25))
    with pytest.raises(ExtractionError, match=r"drums.* vocals"):
        extract_songs([song], tmp_path / "out", stems=["drums"], model=model, show=False)
    assert not (tmp_path / "out").exists()


def test_standard_output_takes_one_stem(song):
    model = loaded(ConstantMask(0.1, 0.2, 0.3, 0.4), sources=STEMS)
    with pytest.raises(ExtractionError, match="one stem, got vocals, drums, residual"):
        extract_vocals(song, "-", stems=["vocals", "drums"], model=model)


@pytest.mark.parametrize("option", ["stems", "without"])
def test_standard_output_gets_the_stem_that_is_chosen(song, capfdbinary, option):
    model = loaded(ConstantMask(0.1, 0.2, 0.3, 0.4), sources=STEMS)
    extract_vocals(song, "-", model=model, **{option: ["drums"]})
    written = capfdbinary.readouterr().out
    samples = np.frombuffer(written[written.index(b"data") + 8 :], np.float32).reshape(-1, 2)
    share = 0.2 if option == "stems" else 0.8
    np.testing.assert_allclose(samples, share * soundfile.read(song)[0], atol=1e-5)


def test_no_name_of_a_source_leads_out_of_the_folder(tmp_path, song):
    model = loaded(ConstantMask(0.5, 0.5), sources=("../../escaped", "vocals"))
    (outcome,) = extract_songs([song], tmp_path / "out", stems=["../../escaped"], model=model, show=False)
    assert not outcome.failed
    assert all(path.resolve().is_relative_to(tmp_path / "out" / "song") for path in outcome.stems.values())
