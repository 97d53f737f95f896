"""Lists of models: the mean of their estimates, of whatever kinds they are, and what cannot be on a list."""

import dataclasses

import numpy as np
import pytest
import torch

from main import main
from vocal_extraction.checkpointing import CheckpointError, CheckpointMetadata, load_checkpoint
from vocal_extraction.checkpointing.joining import join_checkpoints
from vocal_extraction.errors import ExtractionError, VocalExtractionError
from vocal_extraction.evaluation import EvaluationError
from vocal_extraction.evaluation.deep_mask_reference import separate_with_nussl
from vocal_extraction.exporting import export_model
from vocal_extraction.extraction import extract_songs, separate
from vocal_extraction.extraction.workers import Work
from vocal_extraction.networks import create_model
from vocal_extraction.presets import Preset
from vocal_extraction.separation import DiskArray, Separator, StreamingSeparator
from vocal_extraction.settings import NetworkSettings, SignalSettings

COARSE = Preset(
    "coarse",
    signal=SignalSettings(sample_rate=16_000, window_length=64, hop_length=32, stereo="mid-side"),
    network=NetworkSettings(hidden_size=5, num_layers=1, dropout=0.0),
    sources=("drums", "vocals"),
)
FINE = dataclasses.replace(
    COARSE, signal=SignalSettings(sample_rate=8_000, window_length=128, hop_length=64), sources=("vocals",)
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def listed(tmp_path):
    """Two models of different windows, rates and sources, and a list of both."""
    for seed, (name, preset) in enumerate((("coarse", COARSE), ("fine", FINE))):
        torch.manual_seed(seed)
        create_model(preset).save(str(tmp_path / f"{name}.pth"), metadata=CheckpointMetadata.of_preset(preset).stored())
    (tmp_path / "both.toml").write_text('members = ["coarse.pth", "fine.pth"]\n')
    return tmp_path


def noise():
    return np.random.default_rng(0).normal(0, 0.1, (2, 150_000)).astype(np.float32)


def test_an_estimate_is_the_mean_of_those_of_the_members_that_have_the_source(listed):
    both, coarse, fine = (
        separate(noise(), 16_000, model=listed / name, stems=["all"])
        for name in ("both.toml", "coarse.pth", "fine.pth")
    )
    np.testing.assert_allclose(both["vocals"], (coarse["vocals"] + fine["vocals"]) / 2, atol=1e-6)
    np.testing.assert_array_equal(both["drums"], coarse["drums"])
    assert np.abs(coarse["vocals"] - fine["vocals"]).max() > 0.01


def test_songs_on_disk_give_the_same_and_progress_comes_to_the_end(listed):
    model, reported = load_checkpoint(listed / "both.toml"), []
    with DiskArray((2,)) as song:
        song.append(noise().T)
        estimates = Separator(model)(
            song, 16_000, sources=["vocals"], progress=lambda done, total: reported.append(done)
        )
        found = estimates["vocals"][:].T
        estimates["vocals"].close()
    np.testing.assert_allclose(found, separate(noise(), 16_000, model=model)["vocals"], atol=1e-6)
    assert reported == sorted(reported)
    assert reported[-1] == pytest.approx(150_000 / 16_000)


def test_the_command_writes_a_list_that_is_used_like_any_model(listed, make_song, monkeypatch):
    monkeypatch.chdir(listed)
    assert main(["ensemble", "coarse.pth", "fine.pth", "-o", "sub.toml"]) == 0
    (outcome,) = extract_songs(make_song("a.wav"), listed / "out", model="sub.toml", show=False)
    assert outcome.outcome == "done"
    model = load_checkpoint("sub.toml")
    assert Work.of(model, model, "cpu", "auto", 1).load().sha256 == model.sha256, "what other processes load"
    with pytest.raises(CheckpointError, match=r"drums|none of"):
        join_checkpoints([listed / "fine.pth", drums_only(listed)], listed / "none.toml")
    assert not (listed / "none.toml").exists()


def drums_only(folder):
    preset = dataclasses.replace(FINE, sources=("drums",))
    create_model(preset).save(str(folder / "drums.pth"), metadata=CheckpointMetadata.of_preset(preset).stored())
    return folder / "drums.pth"


def test_it_has_a_checksum_of_its_members_and_names_each(listed):
    model = load_checkpoint(listed / "both.toml")
    members = [load_checkpoint(listed / name) for name in ("coarse.pth", "fine.pth")]
    assert [each["sha256"] for each in model.metadata.members] == [member.sha256 for member in members]
    assert (model.name, model.sources, model.metadata.preset) == ("both", ("drums", "vocals"), "both")
    assert model.metadata.licence == "not stated"
    (listed / "ours.toml").write_text('members = ["classic", "fine.pth"]')
    assert load_checkpoint(listed / "ours.toml").metadata.licence == "not stated; research and private use"
    (listed / "both.toml").write_text('members = ["fine.pth", "coarse.pth"]')
    assert load_checkpoint(listed / "both.toml").sha256 != model.sha256


@pytest.mark.parametrize(
    "text",
    ["", "members = 3", "members = [3, 4]", 'members = ["coarse.pth"]', 'members = ["a.toml", "coarse.pth"]', "\udcff"],
)
def test_what_is_no_list_is_refused(listed, text):
    (listed / "bad.toml").write_text(text, errors="surrogateescape")
    with pytest.raises(CheckpointError, match=r"lists no models|The mean of 1"):
        load_checkpoint(listed / "bad.toml")


def test_what_takes_one_network_refuses_a_list(listed):
    path = listed / "both.toml"
    with pytest.raises(ExtractionError, match="needs the whole song"):
        StreamingSeparator(load_checkpoint(path))
    with pytest.raises(VocalExtractionError, match="is the mean of 2 models"):
        export_model(str(path), output_path=listed / "x.onnx")
    with pytest.raises(EvaluationError, match="no network that gives masks"):
        separate_with_nussl(noise(), 16_000, model=load_checkpoint(path))
    with pytest.raises(CheckpointError, match="cannot be a member"):
        join_checkpoints([path, path], listed / "x.pth")
