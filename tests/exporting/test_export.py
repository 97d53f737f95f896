"""Exported networks: equal to torch's, whole and cut at their layers, whatever the network."""

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from extraction_models import loaded, music

from vocal_extraction.checkpointing import (
    CheckpointError,
    load_checkpoint,
    named_checkpoint,
    save_checkpoint,
    shipped_checkpoints,
)
from vocal_extraction.checkpointing.onnx_files import METADATA_KEY, graph_ends
from vocal_extraction.checkpointing.shipped import member_paths
from vocal_extraction.demo_songs import SAMPLE_RATE, synthesize_song
from vocal_extraction.errors import ExportError
from vocal_extraction.exporting import checking, export_model, exported
from vocal_extraction.model_library.known import VOCALS_DB
from vocal_extraction.networks import create_model
from vocal_extraction.presets import NetworkSettings, Preset
from vocal_extraction.separation import separate
from vocal_extraction.settings import STEMS, SignalSettings

SIGNAL = SignalSettings(window_length=128, hop_length=32)
NETWORKS = {
    "mono": (NetworkSettings(hidden_size=6, num_layers=3), ("vocals",)),
    "causal": (
        NetworkSettings(hidden_size=6, bidirectional=False, activation="softmax"),
        ("bass+drums+other", "vocals"),
    ),
    "bands": (NetworkSettings("BandSplitMaskInference", hidden_size=8), ("vocals",)),
    "attention": (
        NetworkSettings("BandSplitMaskInference", num_audio_channels=2, hidden_size=8, over_bands="attention"),
        STEMS,
    ),
}


class Recurrent(torch.nn.Module):
    """A GRU, which no layer over time is."""

    def __init__(self):
        super().__init__()
        self.gru = torch.nn.GRU(SIGNAL.n_bins, SIGNAL.n_bins, batch_first=True, bidirectional=True)

    def forward(self, data):
        output = self.gru(data["mix_magnitude"][..., 0])[0][..., : SIGNAL.n_bins]
        return {"mask": output.sigmoid()[..., None, None]}


def decibels(estimate, reference):
    return 10 * np.log10(((estimate - reference) ** 2).sum() / (reference**2).sum() + 1e-30)


@pytest.fixture
def make_checkpoint(tmp_path):
    def make(name):
        network, sources = NETWORKS[name]
        torch.manual_seed(0)
        preset = Preset(name, signal=SIGNAL, network=network, sources=sources)
        return save_checkpoint(tmp_path / f"{name}.pth", create_model(preset), preset=preset)

    return make


@pytest.fixture
def a_short_song(tmp_path, monkeypatch):
    """What exports are checked on: one synthesised song, in a folder without any others."""
    monkeypatch.setattr(checking, "_N_DEMO_SONGS", 1)
    monkeypatch.setattr(checking, "_DEMO_S", 2.0)
    monkeypatch.setattr(checking, "LARGEST_LOSS_DB", 0.2)  # the limit is for networks that were trained
    monkeypatch.delenv("MUSDB_PATH", raising=False)
    monkeypatch.chdir(tmp_path)


def expected(checkpoint, magnitudes):
    with torch.no_grad():
        return load_checkpoint(checkpoint).network({"mix_magnitude": torch.from_numpy(magnitudes)})["mask"].numpy()


def magnitudes_for(model, n_frames=50):
    shape = (3, n_frames, model.signal.n_bins, model.n_channels)
    return np.random.RandomState(0).rand(*shape).astype(np.float32) ** 4


def run_cut(folder, magnitudes, size):
    """Take magnitudes through the graphs of a folder in chunks, as docs/edge.md says it."""
    described = json.loads((folder / "model.json").read_text())
    values = {"magnitudes": magnitudes}
    for name, graph in described["graphs"].items():
        session = onnxruntime.InferenceSession(folder / graph["file"])
        if name[:-1] not in ("forward", "backward"):
            given = {each: values[each] for each in graph["inputs"]}
            (values[graph["outputs"][0]],) = session.run(graph["outputs"], given)
            continue
        features = values[graph["inputs"][0]][:: -1 if name.startswith("backward") else 1]
        units = described["layers"][int(name[-1])]["units"]
        states, outputs = [np.zeros((1, features.shape[1], units), np.float32)] * 2, []
        for start in range(0, len(features), size):
            given = [np.ascontiguousarray(features[start : start + size]), *states]
            output, *states = session.run(graph["outputs"], dict(zip(graph["inputs"], given, strict=True)))
            outputs.append(output)
        joined = np.concatenate(outputs)
        values[graph["outputs"][0]] = np.ascontiguousarray(joined[:: -1 if name.startswith("backward") else 1])
    return values["masks"]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_and_the_graphs_it_is_cut_into_give_the_masks_of_torch(name, make_checkpoint, tmp_path):
    checkpoint = make_checkpoint(name)
    file = export_model(checkpoint, tmp_path / "model.onnx", check=False)
    onnx.checker.check_model(onnx.load(file), full_check=True)
    magnitudes = magnitudes_for(load_checkpoint(checkpoint))
    reference = expected(checkpoint, magnitudes)
    (masks,) = onnxruntime.InferenceSession(file).run(["masks"], {"magnitudes": magnitudes})
    assert decibels(masks, reference) < -100  # 32-bit floats in another order
    folder = export_model(checkpoint, tmp_path / "folder", check=False)
    assert decibels(run_cut(folder, magnitudes, size=19), reference) < -100


def test_a_stream_is_run_block_by_block(make_checkpoint, tmp_path):
    checkpoint = make_checkpoint("causal")
    file = export_model(checkpoint, tmp_path / "model.onnx", streaming=True, check=False)
    magnitudes = magnitudes_for(load_checkpoint(checkpoint))
    session = onnxruntime.InferenceSession(file)
    states = {each.name: np.zeros((1, 3, 6), np.float32) for each in session.get_inputs()[1:]}
    blocks = []
    for start in range(0, magnitudes.shape[1], 7):
        masks, *following = session.run(None, {"magnitudes": magnitudes[:, start : start + 7], **states})
        states = dict(zip(states, following, strict=True))
        blocks.append(masks)
    assert decibels(np.concatenate(blocks, axis=1), expected(checkpoint, magnitudes)) < -100


def test_metadata_says_how_to_feed_it_and_where_it_comes_from(tmp_path):
    model = load_checkpoint("classic", runtime="torch")
    (entry,) = onnx.load(export_model("classic", tmp_path / "classic.onnx", check=False)).metadata_props
    assert entry.key == METADATA_KEY
    metadata = json.loads(entry.value)
    assert SignalSettings(**metadata["signal"]) == model.signal
    assert metadata["sources"] == ["vocals"]
    assert metadata["layers"] == [{"directions": 2, "units": 50}] * 2
    assert metadata["source"] == {"name": "classic", "sha256": model.sha256, "vocals_si_sdr_db": VOCALS_DB["classic"]}
    described = json.loads((export_model("classic", tmp_path / "classic", check=False) / "model.json").read_text())
    assert described.pop("graphs").keys() == graph_ends([2, 2]).keys()
    assert described == metadata


def test_what_needs_the_future_cannot_be_streamed(make_checkpoint, tmp_path):
    with pytest.raises(ExportError, match="needs the end of a song"):
        export_model(make_checkpoint("mono"), tmp_path / "model.onnx", streaming=True)
    assert not (tmp_path / "model.onnx").exists()


def test_every_weight_of_a_shipped_graph_is_the_checkpoints():
    """They lie at offsets of the checkpoint's file; a graph of another checkpoint is refused."""
    from vocal_extraction.checkpointing import onnx_network

    for path in {member for model in shipped_checkpoints().values() for member in member_paths(model)}:
        contents = path.read_bytes()
        model = onnx.load(path.with_suffix(".onnx"), load_external_data=False)
        assert [each.name for each in model.graph.initializer if len(each.raw_data) >= 64] == []
        assert {each.external_data[0].value for each in model.graph.initializer if each.external_data} == {path.name}
        assert model.ByteSize() < 0.1 * len(contents)
        with pytest.raises(CheckpointError, match="the graph beside it is of another checkpoint"):
            onnx_network.load_onnx(path.with_suffix(".onnx").read_bytes(), "a", weights=contents + b"\0")


@pytest.mark.parametrize("name, int8", [("causal", False), ("attention", True)])
def test_an_exported_file_separates_as_torch_does(name, int8, make_checkpoint, a_short_song, capsys):
    checkpoint = make_checkpoint(name)
    file = export_model(checkpoint, "model.onnx", int8=int8)
    assert "on 1 synthesised songs" in capsys.readouterr().err
    model = load_checkpoint(file)
    assert model.sources == NETWORKS[name][1]
    assert f"({'int8' if int8 else 'float32'})" in model.network.name
    song = music(1.0)
    found, expected = (separate(song, 44_100, model=each, stems=["all"]) for each in (file, checkpoint))
    assert len(found) == len(model.sources)
    assert all(decibels(found[name], expected[name]) < (-20 if int8 else -100) for name in expected)


def test_weights_of_8_bits_resolve_songs_of_more_bandwidth_than_those_trained_on(tmp_path):
    checkpoint = named_checkpoint("classic")  # trained on songs that end at 16 to 20 kHz
    song = sum(synthesize_song(1, 3.0).values())
    file = export_model(checkpoint, tmp_path / "model.onnx", int8=True, check=False)
    found, expected = (separate(song, SAMPLE_RATE, model=each)["vocals"] for each in (file, checkpoint))
    assert decibels(found, expected) < -18


def test_kernels_of_8_bits_multiply_in_floats(tmp_path):
    """Their input in 8 bits, too, costs 13 dB here, and more of Spleeter's estimates than is accepted."""
    song = sum(synthesize_song(2, 3.0).values())
    files = [export_model("studio", tmp_path / f"{int8}.onnx", int8=int8, check=False) for int8 in (False, True)]
    assert files[1].stat().st_size < 0.3 * files[0].stat().st_size
    expected, found = (separate(song, SAMPLE_RATE, model=file, stems=["all"]) for file in files)
    assert max(decibels(found[name], expected[name]) for name in expected) < -46


def test_an_export_that_is_worse_is_not_written(make_checkpoint, a_short_song, tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "LARGEST_ERROR_DB", -300.0)
    with pytest.raises(ExportError, match=r"was not exported: on 1 synthesised songs .* at most -300 dB is accepted"):
        export_model(make_checkpoint("mono"), "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_networks_that_are_only_forward_are_one_graph(tmp_path):
    """As nussl's own, and those whose layers are not OverTime: they are run on chunks with context."""
    model = loaded(Recurrent(), signal=SIGNAL)
    whole, metadata = exported(model)
    assert metadata["layers"] == []
    (tmp_path / "a.onnx").write_bytes(whole.SerializeToString())
    song = music(1.0)
    found, expected = (separate(song, 44_100, model=each)["vocals"] for each in (tmp_path / "a.onnx", model))
    assert decibels(found, expected) < -100


def test_what_cannot_be_exported_says_why(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, data):
            return {"mask": torch.special.bessel_j0(data["mix_magnitude"])[..., None]}

    with pytest.raises(ExportError, match=r"cannot be exported: .*bessel_j0"):
        exported(loaded(Odd(), signal=SIGNAL))
    waveforms = dataclasses.replace(loaded(Odd(), signal=SIGNAL), output="audio")
    with pytest.raises(ExportError, match="gives waveforms"):
        exported(waveforms)
