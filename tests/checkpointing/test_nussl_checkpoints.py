"""nussl's checkpoints load here as data, and nussl loads this project's."""

import json
import re
import runpy
import struct
import zipfile
from pathlib import Path

import forged_checkpoints as forged
import numpy as np
import pytest
import soundfile
import torch
from forged_checkpoints import N_BINS, STFT

import main
from vocal_extraction.checkpointing import (
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    source_names,
)
from vocal_extraction.networks import MaskInference, create_model
from vocal_extraction.presets import Preset
from vocal_extraction.settings import NetworkSettings, SignalSettings

pytestmark = pytest.mark.usefixtures("quick_evaluation")

ROOT = Path(__file__).resolve().parents[2]
SMALL = Preset(
    "small",
    signal=SignalSettings(window_length=STFT[0], hop_length=STFT[1]),
    network=NetworkSettings(hidden_size=5, num_layers=1),
)


def magnitudes(*shape):
    return torch.from_numpy(np.random.default_rng(0).uniform(0, 1, shape)).float()


def mixture(n_channels=2, n_samples=4_000):
    return np.random.default_rng(0).uniform(-0.5, 0.5, (n_channels, n_samples))


@pytest.fixture
def saved(tmp_path):
    """A small network and the checkpoint it was saved to."""
    torch.manual_seed(0)
    network = create_model(SMALL).eval()
    return network, save_checkpoint(tmp_path / "small.model.pth", network, preset=SMALL)


# nussl's own checkpoints


@pytest.fixture
def old(tmp_path):
    return forged.old_checkpoint(tmp_path / "tutorial.pth")


def test_it_really_is_an_old_one(old):
    with zipfile.ZipFile(old) as archive:
        pickled = archive.read("tutorial/data.pkl")
        assert not [name for name in archive.namelist() if "byteorder" in name]
    assert pickled.count(b"numpy.core.multiarray\nscalar") == 1
    assert b"numpy._core" not in pickled
    assert b"nussl.core.audio_signal\nSTFTParams" in pickled
    assert b"nussl.datasets.transforms\nCompose" in pickled


def test_numpys_numbers_become_pythons(old):
    metadata = read_checkpoint(old)["metadata"]
    assert metadata["trainer.state.epoch_history"] == {"train/loss": [0.5, 0.25], "validation/loss": [0.75, 0.5]}
    output, state = metadata["trainer.state_dict"]["output"], metadata["trainer.state_dict"]
    assert (output["loss"], output["is_best"], state["epoch_length"]) == (0.25, True, 10)
    assert [type(value) for value in (output["loss"], output["is_best"], state["epoch_length"])] == [float, bool, int]
    assert metadata["train_dataset"]["transforms"].transforms[1].range_min == -np.inf


def test_numpys_numbers_are_read_by_their_size_and_byte_order(tmp_path):
    values = [
        np.float64(2.5),
        np.float32(2.5),
        np.float16(2.5),
        np.int64(-3),
        np.int8(-3),
        np.uint8(200),
        np.uint16(60_000),
        np.uint64(2**63),
        np.bool_(True),
    ]
    content = {"state_dict": forged.weights(), "metadata": {"values": values}}
    path = forged.old_checkpoint(tmp_path / "a.pth", content)
    assert read_checkpoint(path)["metadata"]["values"] == [2.5, 2.5, 2.5, -3, -3, 200, 60_000, 2**63, True]
    assert torch.load(path, weights_only=True)["metadata"]["values"] == values
    with zipfile.ZipFile(path) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    little, big = b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00>"
    forged.write_archive(path, {**records, "data.pkl": records["data.pkl"].replace(little, big)})
    (turned,) = struct.unpack(">d", struct.pack("<d", 2.5))
    assert read_checkpoint(path)["metadata"]["values"][0] == turned


def test_an_old_checkpoint_gives_the_masks_that_nussl_gives(old, monkeypatch):
    from vocal_extraction.compatibility import nussl

    modules = nussl.ml.networks.modules

    class Tutorial(torch.nn.Module):
        """The network of the tutorial, of nussl's own modules."""

        def __init__(self, num_features, num_audio_channels, hidden_size, num_layers, bidirectional, dropout, **rest):
            super().__init__()
            self.amplitude_to_db = modules.AmplitudeToDB()
            self.input_normalization = modules.BatchNorm(num_features)
            self.recurrent_stack = modules.RecurrentStack(
                num_features * num_audio_channels, hidden_size, num_layers, bidirectional, dropout
            )
            self.embedding = modules.Embedding(
                num_features, 2 * hidden_size, rest["num_sources"], rest["activation"], num_audio_channels
            )

        def forward(self, data):
            features = self.recurrent_stack(self.input_normalization(self.amplitude_to_db(data)))
            mask = self.embedding(features)
            return {"mask": mask, "estimates": data.unsqueeze(-1) * mask}

    monkeypatch.setattr(modules, "MaskInference", Tutorial, raising=False)
    reference = nussl.ml.SeparationModel(forged.tutorial_config()).eval()
    reference.load_state_dict(read_checkpoint(old)["state_dict"], strict=True)
    data = magnitudes(2, 12, N_BINS, 1)
    model = load_checkpoint(old)
    with torch.no_grad():
        found, expected = model.network({"mix_magnitude": data}), reference({"mix_magnitude": data})
    assert torch.allclose(found["mask"], expected["mask"], rtol=0, atol=1e-6)
    assert float(found["mask"].std()) > 0.01, "the masks are no constant"


def test_an_old_checkpoint_evaluates_and_extracts(old, demo_dataset, tmp_path, capsys):
    """From the command line, and to the same scores through nussl's separator fed by hand."""
    scores = []
    for separator in ("extraction", "nussl"):
        line = ["evaluate", "--model", str(old), "--dataset", str(demo_dataset), "--limit", "1", "--metrics", "scale"]
        assert main.main([*line, "--separator", separator, "-o", str(tmp_path / separator), "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["rows"]["model"]["scores"]["SI-SDR"]["vocals"]["mean"])
    assert scores[0] == pytest.approx(scores[1], abs=0.01)  # dB
    song = min((demo_dataset / "test" / "mixture").glob("*.wav"))
    assert main.main(["extract", str(song), "--model", str(old), "-o", str(tmp_path / "extracted")]) == 0
    vocals, _ = soundfile.read(tmp_path / "extracted" / song.stem / "vocals.wav")
    assert 0.001 < np.abs(vocals).max() < 1


def test_metadata_may_lie_with_the_training_data_as_before_nussl_1_1_3(tmp_path):
    metadata = forged.old_metadata()
    for key in ("stft_params", "sample_rate", "num_channels"):
        del metadata[key]
    content = {"state_dict": forged.weights(), "metadata": metadata}  # nor is there a config of its own
    model = load_checkpoint(forged.old_checkpoint(tmp_path / "a.pth", content))
    assert (model.signal.window_length, model.signal.sample_rate, model.n_channels) == (STFT[0], 44_100, 1)


def test_a_model_of_another_stem_is_named_by_its_transforms(tmp_path):
    from vocal_extraction.compatibility import nussl

    tfm = nussl.datasets.transforms
    steps = [tfm.MagnitudeSpectrumApproximation(), tfm.IndexSources("source_magnitudes", 1), tfm.ToSeparationModel()]
    metadata = forged.old_metadata()
    metadata["train_dataset"]["transforms"] = tfm.Compose(steps)
    content = {"state_dict": forged.weights(), "metadata": metadata}
    assert load_checkpoint(forged.old_checkpoint(tmp_path / "a.pth", content)).sources == ("drums",)


AUDIO_CONFIGS = {
    "recurrent": ("build_recurrent_end_to_end", (64, 64, 16, "sqrt_hann", 4, 1, True, 0.0, 2, ["sigmoid"])),
    "dual path": ("build_dual_path_recurrent_end_to_end", (16, 16, 8, 10, 5, 8, 1, True, 8, 2, ["sigmoid"])),
}


def audio_checkpoint(path, kind):
    """Save a network of nussl's own modules that goes from waveform to waveforms."""
    from vocal_extraction.compatibility import nussl

    builder, arguments = AUDIO_CONFIGS[kind]
    options = {"normalization_args": {"num_features": N_BINS}} if kind == "recurrent" else {}
    torch.manual_seed(0)
    network = nussl.ml.SeparationModel(getattr(nussl.ml.networks.builders, builder)(*arguments, **options)).eval()
    tfm = nussl.datasets.transforms
    steps = [tfm.SumSources([["bass", "drums", "other"]]), tfm.GetAudio(), tfm.ToSeparationModel()]
    metadata = forged.old_metadata()
    metadata["train_dataset"]["transforms"] = tfm.Compose(steps)
    metadata["trainer.state_dict"]["epoch_length"] = 10  # nussl's loader wants Python's integers
    network.save(str(path), metadata=metadata)
    return network, path


@pytest.mark.parametrize("kind", AUDIO_CONFIGS)
def test_a_model_that_gives_waveforms_loads(tmp_path, kind):
    network, path = audio_checkpoint(tmp_path / "audio.pth", kind)
    before = torch.get_rng_state()
    model = load_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.output, model.sources) == ("audio", source_names(2))
    samples = torch.from_numpy(mixture(1)).float().expand(3, 1, -1)
    with torch.no_grad():
        found, expected = model.network({"mix_audio": samples})["audio"], network({"mix_audio": samples})["audio"]
    assert found.shape == (3, 1, 4_000, 2)
    assert torch.equal(found, expected)


LSTM = {
    "class": "RecurrentStack",
    "args": {"num_features": 4, "hidden_size": 2, "num_layers": 1, "bidirectional": True, "dropout": 0.0},
}
BLOCKS = {  # a layer before nussl's Embedding, and how many features it gives that
    "a last layer of two names": (
        {
            "class": "ConvolutionalStack2D",
            "args": {
                "in_channels": 1,
                "channels": [3, 2],
                "dilations": [1, 1],
                "filter_shapes": [3, 3],
                "residuals": [False, False],
            },
        },
        2 * N_BINS,
    ),
    "chunks longer than the trial": (
        {
            "class": "DualPath",
            "args": {
                "num_layers": 1,
                "chunk_size": 20,
                "hop_size": 10,
                "in_features": N_BINS,
                "bottleneck_size": 4,
                "hidden_size": 4,
                "intra_processor": LSTM,
                "inter_processor": LSTM,
            },
        },
        N_BINS,
    ),
}


@pytest.mark.parametrize("block, n_features", BLOCKS.values(), ids=BLOCKS)
def test_a_network_of_nussls_blocks_gives_its_masks(tmp_path, block, n_features):
    from vocal_extraction.compatibility import nussl

    embedding = {
        "num_features": N_BINS,
        "hidden_size": n_features,
        "embedding_size": 2,
        "activation": "sigmoid",
        "dim_to_embed": [2, 3],
        "num_audio_channels": 1,
    }
    modules = {"mix_magnitude": {}, "block": block, "mask": {"class": "Embedding", "args": embedding}}
    connections = [["block", ["mix_magnitude"]], ["mask", ["block"]]]
    torch.manual_seed(0)
    network = nussl.ml.SeparationModel(
        {"name": "blocks", "modules": modules, "connections": connections, "output": ["mask"]}
    ).eval()
    network.save(str(tmp_path / "blocks.pth"), metadata=forged.old_metadata())
    seen = {"mix_magnitude": magnitudes(2, 40, N_BINS, 1)}
    with torch.no_grad():
        found, expected = load_checkpoint(tmp_path / "blocks.pth").network(dict(seen)), network(dict(seen))
    assert torch.equal(found["mask"], expected["mask"])


def test_nussls_deep_audio_estimation_agrees(tmp_path):
    from vocal_extraction.compatibility import nussl

    _, path = audio_checkpoint(tmp_path / "audio.pth", "recurrent")
    signal = nussl.AudioSignal(audio_data_array=mixture(), sample_rate=44_100)
    estimates = nussl.separation.deep.DeepAudioEstimation(signal, model_path=str(path))()
    items = torch.from_numpy(mixture()).float().unsqueeze(1)  # each channel by itself
    with torch.no_grad():
        found = load_checkpoint(path).network({"mix_audio": items})["audio"][:, 0]
    for i, estimate in enumerate(estimates):
        assert np.allclose(estimate.audio_data, found[..., i].numpy(), rtol=0, atol=1e-6)


# nussl reads ours


def test_the_stored_transforms_pick_the_vocals(saved):
    """What nussl's own training would feed a network: the index counts the sources that the sum leaves."""
    from vocal_extraction.compatibility import nussl

    transforms = torch.load(saved[1], weights_only=True)["metadata"]["train_dataset"]["transforms"]
    rng = np.random.default_rng(0)
    sources = {
        stem: nussl.AudioSignal(audio_data_array=rng.normal(size=(1, 2_000)), sample_rate=44_100)
        for stem in ("bass", "drums", "other", "vocals")
    }
    for source in sources.values():
        source.stft_params = nussl.STFTParams(*STFT)
    vocals = np.abs(sources["vocals"].stft())
    data = transforms({"mix": sum(sources.values()), "sources": dict(sources), "metadata": {"labels": []}})
    assert np.allclose(data["source_magnitudes"][..., 0].numpy(), np.transpose(vocals, (1, 0, 2)))


def masks_of(model):
    """Return the masks (n_bins, n_frames, n_channels, n_sources) that this project computes for `mixture()`."""
    from vocal_extraction.spectrogram import stft

    spectra = stft(torch.from_numpy(mixture()).float(), signal=model.signal).abs()  # (n_channels, n_frames, n_bins)
    with torch.no_grad():
        masks = model.network({"mix_magnitude": spectra.unsqueeze(-1)})["mask"][:, :, :, 0]
    return masks.permute(2, 1, 0, 3).numpy()


def test_the_specifications_workaround_runs(saved):
    """The lines of the specification's "PyTorch Model Loading Fix", on one of this project's checkpoints."""
    from vocal_extraction.compatibility import nussl

    path = saved[1]
    processing_device = "cpu"
    loaded_model = torch.load(path, map_location=processing_device, weights_only=True)
    model = create_model(SMALL)
    model.load_state_dict(loaded_model["state_dict"])
    separator = nussl.separation.deep.DeepMaskEstimation(nussl.AudioSignal(), model_path=None, device=processing_device)
    separator.device = processing_device
    separator.model = model
    separator.config = loaded_model["metadata"]["config"]
    separator.metadata.update(loaded_model["metadata"])
    separator.transform = separator._get_transforms(loaded_model["metadata"]["train_dataset"]["transforms"])
    model.eval()
    separator.audio_signal = nussl.AudioSignal(audio_data_array=mixture(), sample_rate=44_100)
    (estimate,) = separator()
    assert estimate.audio_data.shape == (2, 4_000)
    assert np.allclose(separator.forward(), masks_of(load_checkpoint(path)), rtol=0, atol=1e-5)


def test_plain_nussl_loads_ours(saved):
    """nussl's loader compares the type of every value that it knows."""
    from vocal_extraction.compatibility import nussl

    nussl.ml.register_module(MaskInference)
    signal = nussl.AudioSignal(audio_data_array=mixture(), sample_rate=44_100)
    network, metadata = nussl.ml.SeparationModel.load(str(saved[1]))
    separator = nussl.separation.deep.DeepMaskEstimation(signal, model_path=str(saved[1]))
    for name, values in saved[0].state_dict().items():
        assert torch.equal(network.state_dict()[name], values)
    assert metadata["stft_params"] == nussl.STFTParams(*STFT)
    assert metadata["trainer.state_dict"]["seed"] == "UNAVAILABLE"
    assert np.allclose(separator.forward(), masks_of(load_checkpoint(saved[1])), rtol=0, atol=1e-5)


def test_plain_nussl_loads_what_training_saves(tmp_path):
    """The keys that a history adds, of the types that nussl's loader asks for."""
    from vocal_extraction.compatibility import nussl

    nussl.ml.register_module(MaskInference)
    history = [(0.5, 0.75), (0.25, 0.5)]
    path = save_checkpoint(tmp_path / "a.pth", create_model(SMALL), preset=SMALL, history=history, seed=7)
    metadata = nussl.ml.SeparationModel.load(str(path))[1]
    assert metadata["optimizer"] == {"name": "Adam", "params": {"lr": 1e-3}}
    assert metadata["trainer.state_dict"]["epoch"] == 2


# The documentation


def test_the_lines_in_the_documentation_run(tmp_path, monkeypatch, capsys):
    from vocal_extraction.networks import NETWORKS
    from vocal_extraction.presets import SPECIFIED

    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 4
    save_checkpoint(tmp_path / "checkpoints" / "best.model.pth", create_model(), preset=SPECIFIED)
    (tmp_path / "page.py").write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(NETWORKS, "Mine", MaskInference)  # what the page puts there is taken away afterwards
    runpy.run_path("page.py")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "torch.Size([2, 100, 257, 1])",
        "(2, 44100)",
        "(2, 44100)",
        "torch.Size([1, 3, 257, 2, 2])",
    ]
