"""ONNX files that are damaged, of another kind, hostile, or not what they say: a sentence, before a song is read."""

import json

import numpy as np
import onnx
import pytest
import torch

from vocal_extraction.checkpointing import CheckpointError, load_checkpoint, save_checkpoint
from vocal_extraction.checkpointing.onnx_files import METADATA_KEY
from vocal_extraction.exporting import export_model
from vocal_extraction.networks import create_model
from vocal_extraction.presets import NetworkSettings, Preset
from vocal_extraction.settings import SignalSettings

PRESET = Preset("small", signal=SignalSettings(window_length=64, hop_length=16), network=NetworkSettings(hidden_size=4))


@pytest.fixture(scope="module")
def exported_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    checkpoint = save_checkpoint(folder / "a.pth", create_model(PRESET), preset=PRESET)
    return export_model(checkpoint, folder / "a.onnx", check=False)


@pytest.fixture
def changed(exported_file, tmp_path):
    """Write the file after something was changed in the model, and in its metadata."""

    def write(change=lambda model: None, **metadata):
        model = onnx.load(exported_file)
        change(model)
        stored = json.loads(model.metadata_props[0].value)
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps({**stored, **metadata})})
        path = tmp_path / "b.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert str(path) in text
    assert len(text.splitlines()) == 1
    assert len(text) < 500 + len(str(path))


def test_the_file_itself_is_loaded(exported_file):
    assert load_checkpoint(exported_file).signal == PRESET.signal


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off(share, exported_file, tmp_path):
    contents = exported_file.read_bytes()
    (tmp_path / "b.onnx").write_bytes(contents[: int(share * len(contents))])
    refused(tmp_path / "b.onnx", "no ONNX model, or only a part of one|lacks metadata|cannot be cut")


def test_a_model_of_another_program(tmp_path):
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    graph = onnx.helper.make_graph([node], "g", [value("a", 1, [1])], [value("b", 1, [1])])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "b.onnx")
    refused(tmp_path / "b.onnx", "lacks metadata of this program's format")


@pytest.mark.parametrize(
    "metadata, match",
    [
        ({"format": 2}, "lacks metadata"),
        ({"signal": None}, "lacks 'signal'"),
        ({"signal": {}}, "lacks 'stft_params' or 'sample_rate'|its STFT is"),
        ({"signal": {**vars(SignalSettings(window_length=128, hop_length=32))}}, "ONNXRuntimeError"),
        ({"n_channels": 2}, "ONNXRuntimeError"),
        ({"n_channels": 10**9}, "num_channels is"),
        ({"sources": ["vocals", "drums"]}, "expected an axis for 2 sources"),
        ({"sources": []}, "different names"),
        ({"layers": 3}, "does not list its layers"),
        ({"layers": [{"directions": 3, "units": 4}]}, "describes a layer that is none"),
        ({"layers": [{"directions": 2, "units": 10**6}] * 2}, "ONNXRuntimeError"),
        ({"layers": [{"directions": 2, "units": 4}] * 3}, "cannot be cut"),
        ({"layers": [{"directions": 1, "units": 4}] * 2}, "ONNXRuntimeError|cannot be cut"),
        ({"lookahead": -1}, "lookahead"),
        ({"block_frames": 1_000_000}, "block_frames"),
    ],
)
def test_metadata_that_lies(metadata, match, changed):
    refused(changed(**metadata), match)


def test_values_in_other_files_are_not_read(changed, tmp_path):
    """Neither beside it nor elsewhere: such a path could name any file of this machine."""
    (tmp_path / "c.bin").write_bytes(bytes(10**6))
    for place in ("c.bin", "/etc/passwd", "../../secret"):

        def change(model, place=place):
            onnx.external_data_helper.set_external_data(model.graph.initializer[0], place, 0, 16)
            model.graph.initializer[0].ClearField("raw_data")

        refused(changed(change), "takes values from other files")


def test_a_constant_from_another_file_is_not_read(changed):
    def change(model):
        constant = next(node for node in model.graph.node if node.op_type == "Constant")
        onnx.external_data_helper.set_external_data(constant.attribute[0].t, "/etc/passwd", 0, 16)

    refused(changed(change), "takes values from other files")


def test_a_graph_within_a_graph_is_refused(changed):
    def change(model):
        graph = onnx.helper.make_graph([], "g", [], [])
        model.graph.node[-1].attribute.append(onnx.helper.make_attribute("then_branch", graph))

    refused(changed(change), "graphs within its graph")


def test_names_that_are_no_text(exported_file, tmp_path):
    """They come out of the file as bytes: TypeError."""
    (tmp_path / "b.onnx").write_bytes(exported_file.read_bytes().replace(b"encode/", b"\x80ncode/"))
    refused(tmp_path / "b.onnx", "cannot be cut at its layers|no ONNX model")


def test_operators_that_are_none(changed):
    def change(model):
        model.graph.node[-1].op_type = "FormatDisk"

    refused(changed(change), "FormatDisk")


def test_weights_that_are_no_numbers(changed):
    def change(model):
        for weight in model.graph.initializer:
            if weight.data_type == onnx.TensorProto.FLOAT:
                weight.raw_data = np.full(len(weight.raw_data) // 4, np.nan, np.float32).tobytes()

    refused(changed(change), "NaN or infinity")


def test_a_runtime_that_cannot_run_it(exported_file):
    with pytest.raises(CheckpointError, match="does not run on torch; name its checkpoint"):
        load_checkpoint(exported_file, runtime="torch")
    with pytest.raises(CheckpointError, match="does not run on onnxruntime; export it first"):
        load_checkpoint(exported_file.with_suffix(".pth"), runtime="onnxruntime")
