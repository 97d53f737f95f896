"""Files that are cut short, altered or of another kind: each is refused with one clear sentence."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import forged_checkpoints as forged
import numpy as np
import pytest
import torch
from forged_checkpoints import content, not_loaded, refused

from vocal_extraction.checkpointing import CheckpointError, load_checkpoint, read_checkpoint, source_names

# Archives


def test_what_is_no_archive_is_no_checkpoint(tmp_path):
    path = tmp_path / "a.pth"
    whole = forged.old_checkpoint(tmp_path / "whole.pth").read_bytes()
    for data in (
        b"",
        b"PK",
        pickle.dumps("anything"),
        whole[:-30],
        whole[: len(whole) // 2],
    ):
        path.write_bytes(data)
        refused(path, "is no checkpoint, or only a part of one")


def test_the_format_of_torch_before_1_6_is_read_if_it_is_whole(tmp_path):
    path, buffer = tmp_path / "a.pth", io.BytesIO()
    torch.save(content(), buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue())
    assert read_checkpoint(path)["state_dict"].keys() == content()["state_dict"].keys()
    n_weights = sum(weights.numel() for weights in content()["state_dict"].values())
    for data in (buffer.getvalue()[:-4], buffer.getvalue()[: -4 * n_weights], buffer.getvalue() + b"more"):
        path.write_bytes(data)
        refused(path, "is damaged")
    for n_bytes in (10, 20, 200):
        path.write_bytes(buffer.getvalue()[:n_bytes])
        refused(path, "is no checkpoint, or only a part of one|is damaged")


def test_missing_files_and_folders_are_no_checkpoint(tmp_path):
    for path in (tmp_path / "nothing.pth", tmp_path):
        refused(path, "No checkpoint at .*python main.py train")


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    path = forged.old_checkpoint(tmp_path / "a.pth")
    monkeypatch.setattr(Path, "read_bytes", denied)
    refused(path, r"cannot be read \(Permission denied\)")


def test_a_file_beyond_all_models_is_not_read(tmp_path):
    path = tmp_path / "a.pth"
    with open(path, "wb") as file:
        file.truncate(2**30 + 1)  # no disk is used: the file is a hole
    refused(path, "has 1073741825 bytes; a checkpoint has at most 1073741824")


def test_compressed_archives_are_refused(tmp_path):
    records = forged.records_of(content())
    refused(forged.write_archive(tmp_path / "a.pth", records, compression=zipfile.ZIP_DEFLATED), "it is compressed")


def test_archives_that_claim_more_than_they_hold_are_refused(tmp_path):
    path = forged.old_checkpoint(tmp_path / "a.pth")
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)  # compressed and uncompressed size
    path.write_bytes(data)
    refused(path, "claims to unpack to more")


def test_two_records_of_one_name_are_refused(tmp_path):
    """Or one reader would check the first, and another load the second."""
    path = forged.old_checkpoint(tmp_path / "a.pth")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", pickle.dumps("anything", protocol=2))
    refused(path, "two of its records have the same name")


def test_archives_without_a_pickle_are_no_checkpoint(tmp_path):
    refused(forged.write_archive(tmp_path / "a.pth", {"version": b"3\n"}), "its data.pkl is missing")
    refused(forged.with_pickle(tmp_path / "b.pth", bytes(2**21 + 1)), "missing or too large")


@pytest.mark.parametrize(
    "pickled", [b"\x80\x02", b"\x80\x02}", b"\x80\x02h\x05.", b"\x80\x02R.", b"\x80\x02t.", b"\xff", b"."]
)
def test_pickles_that_end_too_early_are_damaged(tmp_path, pickled):
    refused(forged.with_pickle(tmp_path / "a.pth", pickled), "is damaged")


@pytest.mark.parametrize(
    "value", [[], {}, {"state_dict": {}}, {"state_dict": {"a": 1}, "metadata": {}}, {"metadata": {}}]
)
def test_other_contents_are_no_checkpoint(tmp_path, value):
    refused(forged.old_checkpoint(tmp_path / "a.pth", value), "it lacks 'state_dict' or 'metadata'")


def test_damage_anywhere_is_found(tmp_path):
    """A flipped bit in the file is a failed checksum; a flipped bit in the pickle alone changes data, or is refused."""
    path = forged.old_checkpoint(tmp_path / "a.pth")
    whole, records = path.read_bytes(), forged.records_of(content())
    rng = np.random.default_rng(0)
    n_refused = 0
    for position in rng.integers(len(whole), size=30):
        changed = bytearray(whole)
        changed[position] ^= 1 << rng.integers(8)
        n_refused += _is_refused(path, bytes(changed))
    assert n_refused > 24, "most of a file are weights under a checksum"
    for position in rng.integers(len(records["data.pkl"]), size=60):
        changed = bytearray(records["data.pkl"])
        changed[position] ^= 1 << rng.integers(8)
        forged.write_archive(path, {**records, "data.pkl": bytes(changed)})
        _is_refused(path, path.read_bytes())


def _is_refused(path, data):
    path.write_bytes(data)
    try:
        load_checkpoint(path)
    except CheckpointError:
        return True
    return False


# Models of another kind


def saved(path, **changes):
    return forged.old_checkpoint(path, content(**changes))


def with_metadata(path, **changes):
    return saved(path, metadata=forged.old_metadata(**changes))


def with_config(path, **changes):
    return saved(path, config=json.dumps({**forged.tutorial_config(), **changes}))


def with_arguments(path, **arguments):
    return saved(path, config=json.dumps(forged.tutorial_config(**arguments)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    state = forged.weights()
    state["layers.model.embedding.linear.bias"][3] = value
    not_loaded(saved(tmp_path / "a.pth", state_dict=state), "its weights hold NaN or infinity")


def test_weights_that_give_no_numbers_are_refused(tmp_path):
    """A negative variance has no square root."""
    state = forged.weights()
    state["layers.model.input_normalization.batch_norm.running_var"].fill_(-1)
    not_loaded(saved(tmp_path / "a.pth", state_dict=state), "its network gives NaN or infinity")


def test_other_kinds_of_numbers(tmp_path):
    """Halves and doubles are numbers too; integers and complex ones are no weights."""
    for dtype in (torch.float16, torch.float64, torch.bfloat16):
        state = {
            name: values.to(dtype) if values.is_floating_point() else values
            for name, values in forged.weights().items()
        }
        model = load_checkpoint(saved(tmp_path / "a.pth", state_dict=state))
        assert {weights.dtype for weights in model.network.parameters()} == {torch.float32}
    state = {name: values.to(torch.int64) for name, values in forged.weights().items()}
    not_loaded(saved(tmp_path / "a.pth", state_dict=state), r"is torch\.int64, expected torch\.float32")
    state = {name: values.to(torch.complex64) for name, values in forged.weights().items()}
    refused(saved(tmp_path / "a.pth", state_dict=state), "refers to 'torch.ComplexFloatStorage'")


def test_another_architecture_is_refused(tmp_path):
    state = forged.weights()
    del state["layers.model.embedding.linear.bias"]
    path = tmp_path / "a.pth"
    not_loaded(saved(path, state_dict=state), "its weights and its architecture differ .*linear.bias")
    not_loaded(saved(path, state_dict={**forged.weights(), "more": torch.ones(1)}), "differ .*more")
    not_loaded(saved(path, state_dict={}), "its weights and its architecture differ")
    not_loaded(with_arguments(path, num_layers=3), "its weights and its architecture differ")
    not_loaded(with_arguments(path, hidden_size=6), r"has shape \(20, 33\), expected \(24, 33\)")


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"activation": "tanh"}, "The activation is 'tanh'"),
        ({"activation": ["sigmoid", "unit_norm"]}, "expected 'sigmoid' or 'softmax'"),
        ({"more": 1}, "unexpected keyword argument 'more'"),
        ({"dropout": 7}, "dropout"),
        ({"dropout": float("nan")}, "'dropout' is nan"),
        ({"num_features": None}, "num_features is None; expected"),
        ({"num_features": "33"}, "num_features is '33'; expected"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": -5}, "hidden_size|negative|shape"),
        ({"hidden_size": 10**400}, "'hidden_size' is 1000"),
        ({"num_layers": list(range(65))}, "lists 65 things"),
    ],
)
def test_arguments_that_make_no_network_are_refused(tmp_path, arguments, reason):
    not_loaded(with_arguments(tmp_path / "a.pth", **arguments), reason)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"sample_rate": 0}, "expected 8000 to 192000"),
        ({"sample_rate": -8_000}, "expected 8000 to 192000"),
        ({"num_features": 1}, "no network can be made of its config"),
    ],
)
def test_bands_that_cannot_be_made_are_refused(tmp_path, arguments, reason):
    config = forged.tutorial_config(**arguments)
    config["modules"]["model"]["class"] = "BandSplitMaskInference"
    not_loaded(saved(tmp_path / "a.pth", config=json.dumps(config)), reason)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"modules": 1}',
        '{"modules": {}}',
        '{"modules": {"a": 1}}',
        '{"modules": {"a": []}}',
        "[" * 100_000,
        '{"modules": {"a": {"class": []}}}',
        '{"modules": {"a": {"class": "MaskInference"}}}',
        "1" * 5_000,
        7,
    ],
    ids=lambda config: str(config)[:30],
)
def test_configs_that_describe_no_network_are_refused(tmp_path, config):
    metadata = forged.old_metadata(config=None)
    path = saved(tmp_path / "a.pth", config=config, metadata=metadata)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    not_loaded(path, "a model of another kind")


@pytest.mark.parametrize("name", ["Module", "Sequential", "DataParallel", "checkpoint", "blocks", "__builtins__", "os"])
def test_classes_that_nobody_trains_are_refused(tmp_path, name):
    modules = {"mix_magnitude": {}, "mask": {"class": name, "args": {}}}
    not_loaded(with_config(tmp_path / "a.pth", modules=modules), f"'mask' is a '{name}', which is no part")
    inner = {"class": name, "args": {"function": "print"}}
    arguments = {
        "num_layers": 1,
        "chunk_size": 4,
        "hop_size": 2,
        "in_features": 33,
        "bottleneck_size": 4,
        "hidden_size": 4,
    }
    modules["mask"] = {"class": "DualPath", "args": {**arguments, "intra_processor": inner, "inter_processor": inner}}
    not_loaded(with_config(tmp_path / "a.pth", modules=modules), f"'intra_processor' is a '{name}', which is no part")


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"stft_params": None, "train_dataset": {}}, "lacks 'stft_params' or 'sample_rate'"),
        ({"sample_rate": None, "train_dataset": None}, "lacks 'stft_params' or 'sample_rate'"),
        ({"train_dataset": 7, "stft_params": None}, "lacks 'stft_params' or 'sample_rate'"),
        ({"stft_params": (64, 16, "sqrt_hann")}, r"its STFT is .\(64, 16"),
        ({"sample_rate": 10**12}, "sample rate must be"),
        ({"sample_rate": "fast"}, "fast"),
        ({"num_channels": 0}, "num_channels is '0', expected 1 to 8"),
        ({"num_channels": 10**9}, "num_channels is '1000000000', expected 1 to 8"),
        ({"num_channels": "UNAVAILABLE"}, "num_channels is 'UNAVAILABLE'"),
        ({"num_channels": 2}, "mat1 and mat2|input|size"),
        ({"source_names": ["vocals", "bass"]}, "does not give them 1 names"),
        ({"source_names": "v"}, "does not give its sources different names"),
        ({"source_names": ["v", "v"]}, "does not give its sources different names"),
        ({"source_names": [7]}, "is no name"),
        ({"source_names": ["\x1b[2J"]}, "is no name"),
        ({"source_names": ["v" * 1_000]}, "is no name"),
        ({"source_names": 7}, "does not give its sources different names"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path, changes, reason):
    not_loaded(with_metadata(tmp_path / "a.pth", **changes), reason)


def test_other_stfts_are_refused(tmp_path):
    from vocal_extraction.compatibility import nussl

    for stft, reason in {
        (64, 16, "hamming"): "window type must be sqrt hann or hann",
        (64, 48, "sqrt_hann"): "hop length must divide",
        (128, 32, "sqrt_hann"): "must match the size of tensor b .33.",
        (None, None, None): "its STFT is",
    }.items():
        not_loaded(with_metadata(tmp_path / "a.pth", stft_params=nussl.STFTParams(*stft)), reason)


def test_three_sources_have_no_names(tmp_path):
    with pytest.raises(CheckpointError, match="3 sources has no names for them; expected 1, 2 or 4"):
        source_names(3)
    config = json.dumps(forged.tutorial_config(num_sources=3))
    path = saved(tmp_path / "a.pth", state_dict=forged.weights(num_sources=3), config=config)
    not_loaded(path, "3 sources has no names")
    metadata = forged.old_metadata(source_names=["drums", "rest", "piano"])
    path = saved(path, state_dict=forged.weights(num_sources=3), config=config, metadata=metadata)
    assert load_checkpoint(path).sources == ("drums", "rest", "piano")


# Networks of nussl's modules


def nussl_network(path, config, **state):
    """Save a network that nussl builds of a config."""
    from vocal_extraction.compatibility import nussl

    network = nussl.ml.SeparationModel(config)
    return saved(path, state_dict={**network.state_dict(), **state}, config=json.dumps(config))


def recurrent(builder="build_recurrent_mask_inference", *more):
    from vocal_extraction.compatibility import nussl

    build = getattr(nussl.ml.networks.builders, builder)
    return build(33, 4, 1, True, 0.0, *more, normalization_args={"num_features": 33})


def test_a_mask_network_of_nussls_builder_loads(tmp_path):
    model = load_checkpoint(
        nussl_network(tmp_path / "a.pth", recurrent("build_recurrent_mask_inference", 2, ["softmax"]))
    )
    assert (model.output, model.sources) == ("mask", source_names(2))
    masks = model.network({"mix_magnitude": torch.rand(3, 7, 33, 1)})["mask"]
    assert masks.shape == (3, 7, 33, 1, 2)


def test_a_network_that_clusters_is_refused(tmp_path):
    config = recurrent("build_recurrent_dpcl", 5, ["sigmoid", "unit_norm"])
    not_loaded(nussl_network(tmp_path / "a.pth", config), r"its network gives \['embedding'\], expected mask")


def chained(*classes, growth):
    """Return the config of a network in which every layer makes more of what the last one made."""
    modules = {"mix_magnitude": {}, **{str(i): {"class": kind} for i, kind in enumerate(classes)}}
    connections = [["0", ["mix_magnitude"] * growth]]
    connections += [[str(i), [str(i - 1)] * growth] for i in range(1, len(classes))]
    return {"name": "chain", "modules": modules, "connections": connections, "output": ["0"]}


def test_a_network_that_grows_without_end_is_stopped(tmp_path):
    """Forty layers, each of which joins what the last one made to itself, would make 2^40 times its input."""
    config = chained(*["Concatenate"] * 40, "ShiftAndScale", growth=2)
    config["connections"][-1][1] = ["39"]
    not_loaded(nussl_network(tmp_path / "a.pth", config), "it makes [0-9]+ values of a few frames")


def test_a_network_whose_layers_take_much_together_is_stopped(tmp_path):
    """Forty layers, each of which stays below the bound, would hold 850 MB: nussl keeps what each has made."""
    wide = [str(i) for i in range(40)]
    config = {
        "name": "wide",
        "modules": {
            "mix_magnitude": {},
            **{name: {"class": "Concatenate"} for name in ("long", "longer", *wide)},
            "end": {"class": "ShiftAndScale"},
        },
        "connections": [
            ["long", ["mix_magnitude"] * 64],
            ["longer", ["long"] * 64],
            *([name, ["longer"] * 4] for name in wide),
            ["end", ["0"]],
        ],
        "output": ["end"],
    }
    not_loaded(nussl_network(tmp_path / "a.pth", config), "it makes [0-9]+ values of a few frames")


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"output": ["nothing"]}, "nothing"),
        ({"output": ["mask"], "connections": []}, "mask"),
        ({"connections": [["nothing", ["mix_magnitude"]]]}, "nothing"),
        ({"connections": [["mask", ["nothing"]]]}, "nothing"),
        ({"name": 1}, "must be a string"),
        ({"more": 1}, "Expected keys"),
        ({"modules": {"mix": {}, "mask": {"class": "ShiftAndScale"}}}, "wants .'mix'., expected mix_magnitude"),
        ({}, "expected one more axis, for sources"),
    ],
)
def test_networks_that_do_not_hang_together_are_refused(tmp_path, changes, reason):
    modules = {"mix_magnitude": {}, "mask": {"class": "ShiftAndScale"}}
    connections = [["mask", ["mix_magnitude"]]]
    config = {"name": "odd", "modules": modules, "connections": connections, "output": ["mask"], **changes}
    state = {"layers.mask.scale": torch.ones(1), "layers.mask.shift": torch.zeros(1)}
    not_loaded(saved(tmp_path / "a.pth", config=json.dumps(config), state_dict=state), reason)
