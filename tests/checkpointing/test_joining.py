"""Joined checkpoints: the mean of the masks, what is kept of the members, and what cannot be joined."""

import dataclasses
import functools
import io
import json

import numpy as np
import pytest
import torch

from main import main
from vocal_extraction.atomic_files import StorageError
from vocal_extraction.checkpointing import CheckpointError, CheckpointMetadata, load_checkpoint, read_checkpoint
from vocal_extraction.checkpointing.joining import join_checkpoints
from vocal_extraction.compatibility import nussl
from vocal_extraction.evaluation.deep_mask_reference import separate_with_nussl
from vocal_extraction.extraction import separate
from vocal_extraction.networks import create_model
from vocal_extraction.presets import Preset
from vocal_extraction.settings import NetworkSettings, SignalSettings

SMALL = Preset(
    "small",
    signal=SignalSettings(sample_rate=16_000, window_length=64, hop_length=32, stereo="mid-side"),
    network=NetworkSettings("BandSplitMaskInference", hidden_size=5, num_layers=1, dropout=0.0),
)


pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def contents(preset, seed):
    torch.manual_seed(seed)
    buffer = io.BytesIO()
    facts = {"seed": seed, "git_commit": "abc", "history": [(0.5, 0.75)]}
    create_model(preset).save(buffer, metadata=CheckpointMetadata.of_preset(preset, **facts).stored())
    return buffer.getvalue()


@pytest.fixture
def trained(tmp_path):
    """Write checkpoints of one seed each, as if they had been trained; return their paths."""

    def save(*seeds, preset=SMALL, name="seed"):
        paths = [tmp_path / f"{name}{seed}.pth" for seed in seeds]
        for path, seed in zip(paths, seeds, strict=True):
            path.write_bytes(contents(preset, seed))
        return paths

    return save


def masks_of(path, data):
    with torch.inference_mode():
        return load_checkpoint(path).network({"mix_magnitude": data})["mask"]


@pytest.mark.parametrize("kind", ["MaskInference", "BandSplitMaskInference"])
def test_the_masks_are_the_mean_of_the_members(tmp_path, trained, kind):
    network = dataclasses.replace(SMALL.network, kind=kind)
    paths = trained(1, 2, 3, preset=dataclasses.replace(SMALL, network=network))
    joined = join_checkpoints(paths, tmp_path / "joined.pth")
    data = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (2, 7, 33, 1))).float()
    expected = sum(masks_of(path, data) for path in paths) / 3
    torch.testing.assert_close(masks_of(joined, data), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(masks_of(paths[0], data), expected, rtol=0, atol=1e-3)


def test_it_takes_what_its_members_take_and_names_each(tmp_path, trained):
    first, second = trained(1, 2)
    model = load_checkpoint(join_checkpoints([first, second], tmp_path / "joined.pth"))
    member = load_checkpoint(first)
    assert (model.signal, model.n_channels, model.sources) == (SMALL.signal, 1, ("vocals",))
    assert list(model.metadata.members) == [
        {"sha256": load_checkpoint(path).sha256, "seed": seed, "git_commit": "abc"}
        for path, seed in ((first, 1), (second, 2))
    ]
    assert model.metadata.settings == member.metadata.settings
    assert (model.metadata.origin, model.metadata.trainer) == ({}, {}), "those of one member would stand for all"


def test_nussls_separator_gives_the_same_vocals(tmp_path, trained):
    model = load_checkpoint(join_checkpoints(trained(1, 2), tmp_path / "joined.pth"))
    mixture = np.random.default_rng(0).normal(0, 0.1, (2, 16_000)).astype(np.float32)
    ours = separate(mixture, 16_000, model=model)["vocals"]
    nussls = separate_with_nussl(mixture, 16_000, model=model)["vocals"]
    np.testing.assert_allclose(ours, nussls, atol=1e-5)
    assert np.abs(ours).max() > 0.01


def test_the_same_members_give_the_same_file(tmp_path, trained):
    paths = trained(1, 2)
    first, second = (join_checkpoints(paths, tmp_path / name) for name in ("a.pth", "b.pth"))
    assert first.read_bytes() == second.read_bytes()


def other_signal():
    return dataclasses.replace(SMALL, signal=dataclasses.replace(SMALL.signal, stereo="each"))


def other_size():
    return dataclasses.replace(SMALL, network=dataclasses.replace(SMALL.network, hidden_size=6))


@pytest.mark.parametrize("other", [other_signal, other_size])
def test_members_of_two_kinds_are_refused_by_name(tmp_path, trained, other):
    paths = [*trained(1), *trained(2, preset=other(), name="other")]
    with pytest.raises(CheckpointError, match=r"seed1\.pth and .*other2\.pth are of two kinds"):
        join_checkpoints(paths, tmp_path / "joined.pth")
    assert not (tmp_path / "joined.pth").exists()


def test_an_ensemble_is_no_member(tmp_path, trained):
    joined = join_checkpoints(trained(1, 2), tmp_path / "joined.pth")
    with pytest.raises(CheckpointError, match=r"joined\.pth cannot be a member: expected one network"):
        join_checkpoints([*trained(3), joined], tmp_path / "nested.pth")


def test_one_is_not_enough(tmp_path, trained):
    with pytest.raises(CheckpointError, match="takes two checkpoints or more, got 1"):
        join_checkpoints(trained(1), tmp_path / "joined.pth")


def test_what_is_there_is_kept_unless_it_may_be_replaced(tmp_path, trained):
    paths, there = trained(1, 2), tmp_path / "there.pth"
    there.write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"there\.pth is there already.*--overwrite"):
        join_checkpoints(paths, there)
    assert there.read_bytes() == b"mine"
    assert load_checkpoint(join_checkpoints(paths, there, overwrite=True)).metadata.members


def test_the_command_joins_and_says_where(tmp_path, trained, capsys):
    paths, output = trained(1, 2), tmp_path / "joined.pth"
    assert main(["ensemble", *map(str, paths), "-o", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"checkpoint": str(output)}
    assert main(["ensemble", *map(str, paths), "-o", str(output)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["ensemble", *map(str, paths), "-o", str(output), "--overwrite"]) == 0
    assert capsys.readouterr().out == f"Joined: {output}\n"


@pytest.mark.parametrize(
    "arguments",
    [{"n_members": 10**6}, {"n_members": "2"}, {"member": "EnsembleMaskInference"}],
)
def test_a_forged_ensemble_is_refused_before_it_takes_memory(tmp_path, trained, arguments):
    content = read_checkpoint(join_checkpoints(trained(1, 2), tmp_path / "joined.pth"))
    config = json.loads(content["config"])
    config["modules"]["model"]["args"].update(arguments)
    metadata = {"stft_params": nussl.STFTParams(64, 32, "sqrt_hann"), "sample_rate": 16_000, "num_channels": 1}
    forged = tmp_path / "forged.pth"
    torch.save({**content, "config": json.dumps(config), "metadata": metadata}, forged)
    with pytest.raises(CheckpointError, match="a model of another kind"):
        load_checkpoint(forged)
