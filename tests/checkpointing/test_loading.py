"""Checkpoints are saved whole and rebuild the model and its input; those that ship are the published ones."""

import dataclasses
import errno
import hashlib
import json
import os
import zipfile
from pathlib import Path

import forged_checkpoints as forged
import numpy as np
import pytest
import torch
from forged_checkpoints import STFT

from vocal_extraction.atomic_files import StorageError
from vocal_extraction.checkpointing import (
    LOADERS,
    CheckpointError,
    CheckpointMetadata,
    Loader,
    STFTParams,
    default_checkpoint,
    load_checkpoint,
    named_checkpoint,
    read_checkpoint,
    read_metadata,
    save_checkpoint,
    shipped_checkpoints,
)
from vocal_extraction.networks import create_model
from vocal_extraction.presets import PRESETS, Preset
from vocal_extraction.settings import ACCOMPANIMENT, STEMS, NetworkSettings, SignalSettings

SMALL = Preset(
    "small",
    signal=SignalSettings(window_length=STFT[0], hop_length=STFT[1]),
    network=NetworkSettings(hidden_size=5, num_layers=1),
)


def small(sources=("vocals",), **network):
    """Return a preset with a small network."""
    return Preset(
        "small",
        sources=sources,
        signal=SMALL.signal,
        network=NetworkSettings(**{"hidden_size": 5, "num_layers": 1, **network}),
    )


def magnitudes(*shape):
    return torch.from_numpy(np.random.default_rng(0).uniform(0, 1, shape)).float()


@pytest.fixture
def saved(tmp_path):
    """A small network and the checkpoint it was saved to."""
    torch.manual_seed(0)
    network = create_model(SMALL).eval()
    return network, save_checkpoint(tmp_path / "small.model.pth", network, preset=SMALL, history=[(0.5, 0.75)], seed=0)


@pytest.mark.parametrize(
    "preset",
    [
        *PRESETS.values(),
        small(sources=(ACCOMPANIMENT, "vocals"), activation="softmax"),
        small(sources=STEMS, activation="softmax"),
        small(num_audio_channels=2),
        small(kind="BandSplitMaskInference", num_audio_channels=2, sources=STEMS),
    ],
    ids=lambda preset: f"{preset.name}-{len(preset.sources)}-{preset.network.num_audio_channels}",
)
def test_what_was_saved_is_loaded(tmp_path, preset):
    network = create_model(preset).eval()
    model = load_checkpoint(save_checkpoint(tmp_path / "a.pth", network, preset=preset))
    n_channels, n_sources = preset.network.num_audio_channels, len(preset.sources)
    data = magnitudes(2, 4, preset.signal.n_bins, n_channels)
    with torch.no_grad():
        found, expected = model.network({"mix_magnitude": data}), network({"mix_magnitude": data})
    assert torch.equal(found["mask"], expected["mask"])
    assert found["mask"].shape == (*data.shape, n_sources)
    assert (model.signal, model.n_channels, model.output) == (preset.signal, n_channels, "mask")
    assert model.sources == preset.sources
    assert not model.network.training
    assert model.device == torch.device("cpu")
    assert model.metadata.preset == preset.name
    assert model.metadata.settings is not None
    assert json.loads(model.metadata.settings)["network"]["hidden_size"] == preset.network.hidden_size


def test_the_specifications_custom_example_is_saved_and_reloaded(tmp_path):
    custom = NetworkSettings(hidden_size=100, num_layers=3, dropout=0.2)
    network = create_model(Preset("custom", network=custom))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    data = magnitudes(2, 10, 257, 1)
    network(mix_magnitude=data)["mask"].mean().backward()
    optimizer.step()
    path = save_checkpoint(tmp_path / "a.pth", network, preset=Preset("custom", network=custom))
    with torch.no_grad():
        expected = network.eval()({"mix_magnitude": data})["mask"]
        assert torch.equal(load_checkpoint(path).network({"mix_magnitude": data})["mask"], expected)


def test_the_metadata_is_kept_and_plain(saved):
    network, path = saved
    content = read_checkpoint(path)
    assert set(content) == {"state_dict", "config", "metadata"}
    metadata = content["metadata"]
    assert metadata["trainer.state.epoch_history"] == {"train/loss": [0.5], "validation/loss": [0.75]}
    assert metadata["stft_params"] == STFTParams(*STFT) == metadata["train_dataset"]["stft_params"]
    assert metadata["source_names"] == ["vocals"]
    assert metadata["nussl_version"] == "1.1.9"
    assert json.loads(content["config"]) == metadata["config"]
    for name, values in network.state_dict().items():
        assert torch.equal(content["state_dict"][name], values)


def test_metadata_alone_are_read_without_the_weights(saved, tmp_path):
    _, path = saved
    with zipfile.ZipFile(path) as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    alone = forged.with_pickle(tmp_path / "a.pth", pickled)
    expected = CheckpointMetadata.parse(read_checkpoint(path)["metadata"])
    assert dataclasses.replace(read_metadata(alone), train_dataset=expected.train_dataset) == expected
    for contents in ({"metadata": 1}, [1]):
        forged.old_checkpoint(alone, contents)
        forged.refused(alone, "lacks 'metadata'", by=[read_metadata])


def test_the_same_network_gives_the_same_file(saved, tmp_path):
    network, path = saved
    again = save_checkpoint(tmp_path / "elsewhere.pth", network, preset=SMALL, history=[(0.5, 0.75)], seed=0)
    assert path.read_bytes() == again.read_bytes()


def test_a_full_disk_keeps_the_older_checkpoint(saved, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    network, path = saved
    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="The disk is full"):
        save_checkpoint(path, network, preset=SMALL)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_loading_leaves_the_random_numbers_alone(saved):
    before = torch.get_rng_state()
    load_checkpoint(saved[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_sha256_is_of_the_bytes_that_were_loaded(saved):
    model = load_checkpoint(str(saved[1]))
    assert model.sha256 == hashlib.sha256(saved[1].read_bytes()).hexdigest()
    assert model.path == saved[1]


# Models that ship


@pytest.fixture
def shipped(tmp_path, monkeypatch, saved):
    """A folder of shipped models, with `best.model.pth` and its checksum."""
    folder = tmp_path / "pretrained_model"
    folder.mkdir()
    monkeypatch.setattr("vocal_extraction.checkpointing.shipped.PRETRAINED_FOLDER", folder)
    monkeypatch.setenv("VOCAL_EXTRACTION_MODELS", str(tmp_path / "none"))
    best = folder / "best.model.pth"
    best.write_bytes(saved[1].read_bytes())
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(best.read_bytes()).hexdigest()}  best.model.pth\n")
    return folder


def test_shipped_models_are_found_by_preset(shipped):
    assert shipped_checkpoints() == {"classic": shipped / "best.model.pth"}
    assert named_checkpoint("classic") == default_checkpoint() == shipped / "best.model.pth"
    (shipped / "studio.model.pth").write_bytes(b"")
    assert default_checkpoint() == shipped / "studio.model.pth"


def test_a_name_of_no_model_is_refused_with_those_that_are_there(shipped):
    with pytest.raises(CheckpointError, match=r"'studio'. There are classic\."):
        named_checkpoint("studio")
    (shipped / "best.model.pth").unlink()
    with pytest.raises(CheckpointError, match=r"'classic'. There are none\."):
        default_checkpoint()


@pytest.mark.parametrize("sums", ["{sum}  best.model.pth", "{sum} *best.model.pth\n", "one\n\n{sum}  best.model.pth"])
def test_a_shipped_model_with_its_published_checksum_loads(shipped, sums):
    checksum = hashlib.sha256((shipped / "best.model.pth").read_bytes()).hexdigest()
    (shipped / "SHA256SUMS").write_text(sums.format(sum=checksum))
    assert load_checkpoint(shipped / "best.model.pth").sha256 == checksum


@pytest.mark.parametrize("sums", [None, b"", b"0  best.model.pth", b"\xff\xfe", b"0" * 64 + b"  studio.model.pth"])
def test_a_shipped_model_without_its_published_checksum_is_refused(shipped, sums):
    (shipped / "SHA256SUMS").unlink()
    if sums is not None:
        (shipped / "SHA256SUMS").write_bytes(sums)
    with pytest.raises(CheckpointError, match="not the file that was published"):
        load_checkpoint(shipped / "best.model.pth")


def test_a_shipped_model_is_checked_by_whatever_name_it_is_reached(shipped, tmp_path, monkeypatch):
    (shipped / "SHA256SUMS").write_text("")
    (tmp_path / "link.pth").symlink_to(shipped / "best.model.pth")
    monkeypatch.chdir(shipped)
    for path in (tmp_path / "link.pth", Path("best.model.pth"), shipped / ".." / shipped.name / "best.model.pth"):
        with pytest.raises(CheckpointError, match="git checkout -- pretrained_model"):
            load_checkpoint(path)


def test_a_copy_elsewhere_is_anybodys(shipped, tmp_path):
    (shipped / "SHA256SUMS").write_text("")
    copy = tmp_path / "best.model.pth"
    copy.write_bytes((shipped / "best.model.pth").read_bytes())
    assert load_checkpoint(copy).sources == ("vocals",)


def test_what_ships_in_this_repository_loads():
    """Each model that lies in pretrained_model/ is the published one and fits the preset that it was trained by."""
    for name, path in shipped_checkpoints().items():
        model = load_checkpoint(path)
        assert model.name == name
        for member in model.members:
            preset = PRESETS[member.metadata.preset]
            assert (member.sources, member.signal) == (preset.sources, preset.signal)


# Other kinds of files


def test_a_loader_for_another_kind_of_file_is_one_row(tmp_path, monkeypatch, saved):
    """Weights by themselves, behind four letters: what a user would append for files of another project."""

    def load(contents, name):
        network = create_model(SMALL)
        if len(contents) < 5:
            raise CheckpointError(f"{name} is empty.")
        values = torch.frombuffer(bytearray(contents[4:]), dtype=torch.float32)
        torch.nn.utils.vector_to_parameters(values, network.parameters())
        return network, CheckpointMetadata(SMALL.signal, sources=("piano",), licence="CC0-1.0"), "mask"

    is_mine = Loader(recognizes=lambda contents: contents.startswith(b"MINE"), load=load)
    monkeypatch.setattr("vocal_extraction.checkpointing.loading.LOADERS", [*LOADERS, is_mine])
    network, path = saved
    mine = tmp_path / "mine.bin"
    mine.write_bytes(b"MINE" + torch.nn.utils.parameters_to_vector(network.parameters()).detach().numpy().tobytes())
    model = load_checkpoint(mine)
    data = magnitudes(1, 3, SMALL.signal.n_bins, 1)
    with torch.no_grad():
        assert torch.equal(model.network({"mix_magnitude": data})["mask"], network({"mix_magnitude": data})["mask"])
    assert (model.sources, model.metadata.licence, model.network.training) == (("piano",), "CC0-1.0", False)
    assert load_checkpoint(path).sources == ("vocals",), "other files are read as before"
    mine.write_bytes(b"MINE")
    with pytest.raises(CheckpointError, match=r"mine\.bin is empty"):
        load_checkpoint(mine)


# Metadata


def test_what_others_store_is_ignored(saved):
    metadata = CheckpointMetadata.parse({**read_checkpoint(saved[1])["metadata"], "mood": ["blue"], "seed": "zero"})
    history = metadata.trainer["trainer.state.epoch_history"]
    assert (metadata.seed, metadata.preset, history["train/loss"]) == (None, "small", [0.5])


@pytest.mark.parametrize(
    "sources",
    [
        ("vocals",),
        ("drums",),
        ("bass+drums+other", "vocals"),
        ("accompaniment", "vocals"),
        STEMS,
    ],
)
def test_the_transforms_imply_the_sources_that_are_trained(tmp_path, sources):
    """What a reader of nussl's, which knows no names, makes of the file."""
    preset = dataclasses.replace(SMALL, sources=sources)
    content = read_checkpoint(save_checkpoint(tmp_path / "a.pth", create_model(preset), preset=preset))
    assert content["metadata"].pop("source_names") == list(sources)
    named = CheckpointMetadata.parse(content["metadata"]).with_sources(len(sources))
    assert named.sources == sources
