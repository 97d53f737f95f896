"""Networks are built from presets and arguments; wrong ones are refused in a sentence."""

import numpy as np
import pytest
import torch
from small_networks import KINDS, SMALL, magnitudes, small

from vocal_extraction.checkpointing import load_checkpoint, save_checkpoint
from vocal_extraction.errors import SettingsError
from vocal_extraction.networks import (
    NETWORKS,
    BandSplitMaskInference,
    EnsembleMaskInference,
    MaskInference,
    Network,
    OpenUnmix,
    Spleeter,
    create_model,
)
from vocal_extraction.presets import PRESETS, Preset
from vocal_extraction.settings import NetworkSettings, SignalSettings

SPLEETER = {"num_features": 33, "num_audio_channels": 1, "num_sources": 2, "num_input_features": 32}
OPEN_UNMIX = {"num_features": 33, "num_audio_channels": 1, "hidden_size": 6, "num_layers": 2, "num_input_features": 32}


def test_every_network_is_known_by_its_name():
    trained = {"MaskInference", "BandSplitMaskInference", "EnsembleMaskInference", "UNetMaskInference"}
    assert set(NETWORKS) == trained | {"SourceNetworks", "OpenUnmix", "Spleeter"}
    for kind, network in NETWORKS.items():
        assert network.__name__ == NetworkSettings(kind=kind).kind == kind
    with pytest.raises(SettingsError, match="There is no network 'Mine'; NETWORKS has MaskInference, "):
        create_model(Preset("mine", network=NetworkSettings(kind="Mine")))


class Convolutional(Network):
    """A network of somebody else: `forward` and nothing more."""

    def __init__(self, num_features, num_sources, hidden_size=4):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv1d(num_features, hidden_size, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv1d(hidden_size, num_features * num_sources, 3, padding=1),
        )

    def forward(self, data):
        mask = self.layers(data[..., 0].transpose(1, 2)).unflatten(1, (data.shape[2], -1))
        mask = mask.permute(0, 3, 1, 2).unsqueeze(3).sigmoid()
        return {"mask": mask, "estimates": data.unsqueeze(-1) * mask}


@pytest.fixture
def convolutional(monkeypatch):
    """A preset of a network that a user added to the table."""
    monkeypatch.setitem(NETWORKS, "Convolutional", Convolutional)
    network = NetworkSettings(kind="Convolutional", hidden_size=3)
    return Preset(
        "mine", sources=("drums", "bass"), signal=SignalSettings(window_length=64, hop_length=16), network=network
    )


def test_a_network_of_the_users_own_is_built_saved_and_loaded(convolutional, tmp_path):
    network = create_model(convolutional).eval()
    assert network.config["modules"]["model"]["args"] == {"num_features": 33, "num_sources": 2, "hidden_size": 3}
    model = load_checkpoint(save_checkpoint(tmp_path / "a.pth", network, preset=convolutional))
    data = magnitudes(2, 5, 33, 1)
    with torch.no_grad():
        assert torch.equal(model.network({"mix_magnitude": data})["mask"], network({"mix_magnitude": data})["mask"])
    assert model.sources == ("drums", "bass")
    assert not model.network.layers["model"].is_layerwise


def test_only_networks_with_the_three_methods_are_run_layer_by_layer(convolutional):
    assert small().is_layerwise
    assert small(BandSplitMaskInference).is_layerwise
    assert EnsembleMaskInference("MaskInference", 2, **SMALL, dropout=0.0, num_sources=1).is_layerwise
    assert not EnsembleMaskInference("Convolutional", 2, num_features=33, num_sources=1).is_layerwise


def test_build_takes_the_published_order():
    by_position = MaskInference.build(33, 1, 6, 2, True, 0.3, 1, "sigmoid")
    by_name = MaskInference.build(**SMALL, dropout=0.3, num_sources=1, activation="sigmoid")
    assert by_position.config == by_name.config
    assert by_position.config["modules"]["model"]["args"]["hidden_size"] == 6


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"num_features": 0}, "num_features is 0; expected 1 to 1048576"),
        ({"num_features": 257.0}, r"num_features is 257\.0; expected int"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"num_layers": 65}, "num_layers is 65; expected 1 to 64"),
        ({"num_audio_channels": "1"}, "num_audio_channels is '1'"),
        ({"num_sources": True}, "num_sources is True"),
        ({"bidirectional": "yes"}, "bidirectional is 'yes'; expected bool"),
        ({"bidirectional": np.array([1, 0])}, r"bidirectional is array\(\[1, 0\]\); expected bool"),
        ({"dropout": 1.5}, r"dropout is 1\.5; expected 0\.0 to 1\.0"),
        ({"activation": "relu"}, "The activation is 'relu'"),
        ({"layers": 3}, "unexpected keyword argument 'layers'. It takes num_features, num_audio_channels,"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_values_that_make_no_network_are_refused_in_a_sentence(kind, changes, complaint):
    with pytest.raises(SettingsError, match=complaint):
        kind.build(**{**SMALL, "dropout": 0.0, "num_sources": 1, **changes})
    with pytest.raises(SettingsError, match=complaint):
        EnsembleMaskInference.build(kind.__name__, 2, **{**SMALL, "dropout": 0.0, "num_sources": 1, **changes})


@pytest.mark.parametrize(
    "kind, arguments, complaint",
    [
        (BandSplitMaskInference, {**SMALL, "dropout": 0.0, "num_sources": 1, "sample_rate": "44100"}, "expected int"),
        (BandSplitMaskInference, {**SMALL, "dropout": 0.0, "num_sources": 1, "sample_rate": float("nan")}, "is nan"),
        (BandSplitMaskInference, {**SMALL, "dropout": 0.0, "num_sources": 1, "bands": ["fine"]}, "no .* bands"),
        (OpenUnmix, {**OPEN_UNMIX, "hidden_size": 7}, "hidden_size is 7; expected an even number"),
        (OpenUnmix, {**OPEN_UNMIX, "num_input_features": 34}, "num_input_features is more than the 33 of num_features"),
        (Spleeter, {**SPLEETER, "num_input_features": 34}, "num_input_features is more than the 33 of num_features"),
        (Spleeter, {**SPLEETER, "activation": ["elu"]}, "Expected leaky or elu"),
    ],
)
def test_arguments_of_one_network_alone_are_checked_too(kind, arguments, complaint):
    with pytest.raises(SettingsError, match=complaint):
        kind.build(**arguments)


def test_numbers_of_numpy_are_taken():
    sizes = {name: np.int64(value) for name, value in SMALL.items()} | {"bidirectional": np.True_}
    config = MaskInference.build(**sizes, dropout=np.float64(0.5), num_sources=1).config
    assert config == MaskInference.build(**SMALL, dropout=0.5, num_sources=1).config


def test_create_model_takes_the_name_of_a_preset():
    assert create_model("classic").config == create_model(PRESETS["classic"]).config
    with pytest.raises(SettingsError, match="no preset 'None'"):
        create_model(None)


def test_missing_arguments_are_named():
    with pytest.raises(SettingsError, match="missing a required argument: 'num_audio_channels'"):
        MaskInference.build(257)


def test_an_unknown_kind_of_network_is_named():
    with pytest.raises(SettingsError, match=r"no network 'Transformer'; NETWORKS has MaskInference, .*"):
        create_model(Preset("mine", network=NetworkSettings("Transformer")))
