"""The networks: the specified sizes and shapes, learning, batch independence; and the choice of a device."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from small_networks import KINDS, SMALL, magnitudes, small

from vocal_extraction.errors import SettingsError
from vocal_extraction.networks import (
    BandSplitMaskInference,
    EnsembleMaskInference,
    MaskInference,
    UNetMaskInference,
    create_model,
)
from vocal_extraction.networks.layers import band_edges
from vocal_extraction.presets import PRESETS, SPECIFIED

CLASSIC, BAND_SPLIT = PRESETS["classic"], PRESETS["band-split"]

ALL_KINDS = [*KINDS, UNetMaskInference]


def test_specified_network_has_the_specified_weights():
    network = create_model()
    assert sum(weights.numel() for weights in network.parameters()) == 210_871
    shapes = {name: tuple(values.shape) for name, values in network.state_dict().items()}
    assert shapes["layers.model.input_normalization.batch_norm.weight"] == (257,)
    assert shapes["layers.model.recurrent_stack.rnn.weight_ih_l0"] == (4 * 50, 257)
    assert shapes["layers.model.recurrent_stack.rnn.weight_ih_l1_reverse"] == (4 * 50, 100)
    assert shapes["layers.model.embedding.linear.weight"] == (257, 100)
    assert network.get_submodule("layers.model.recurrent_stack.rnn").dropout == 0.3


def test_create_model_returns_nussls_separation_model():
    from vocal_extraction.compatibility import nussl

    network = create_model()
    assert isinstance(network, nussl.ml.SeparationModel)
    assert network.config["modules"]["model"]["args"]["num_features"] == 257
    assert nussl.ml.networks.modules.MaskInference is MaskInference


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_every_preset_builds_and_runs(preset):
    network = create_model(preset).eval()
    data = magnitudes(1, 4, preset.signal.n_bins, preset.network.num_audio_channels)
    with torch.no_grad():
        output = network({"mix_magnitude": data})
    assert list(output) == ["mask", "estimates"]
    assert output["mask"].shape == output["estimates"].shape == (*data.shape, len(preset.sources))


def test_presets_of_one_network_build_the_same():
    assert [tuple(weights.shape) for weights in create_model(CLASSIC).parameters()] == [
        tuple(weights.shape) for weights in create_model(SPECIFIED).parameters()
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("n_sources, activation", [(1, "sigmoid"), (2, "sigmoid"), (2, "softmax"), (4, "softmax")])
def test_masks_have_the_promised_shape_and_range(kind, n_channels, n_sources, activation):
    network = small(kind, num_audio_channels=n_channels, num_sources=n_sources, activation=activation)
    data = magnitudes(3, 7, 33, n_channels)
    output = network(data)
    mask = output["mask"]
    assert mask.shape == (3, 7, 33, n_channels, n_sources)
    assert mask.min() >= 0
    assert mask.max() <= 1
    if activation == "softmax":
        # A sum of at most four 32-bit numbers, each rounded.
        assert torch.allclose(mask.sum(dim=-1), torch.ones(3, 7, 33, n_channels), rtol=0, atol=1e-6)
    assert torch.equal(output["estimates"], data.unsqueeze(-1) * mask)


@pytest.mark.parametrize("n_channels, n_sources, n_frames", [(1, 1, 1), (2, 4, 7), (2, 2, 8)])
def test_a_u_net_has_masks_for_all_bins_of_any_number_of_frames(n_channels, n_sources, n_frames):
    network = small(UNetMaskInference, num_audio_channels=n_channels, num_sources=n_sources)
    mask = network(magnitudes(3, n_frames, 33, n_channels))["mask"]
    assert mask.shape == (3, n_frames, 33, n_channels, n_sources)
    assert mask.min() >= 0
    assert mask.max() <= 1
    # Above the 32 bins that it looks at there is the mean of the last 4 of them.
    assert torch.allclose(mask[:, :, 32], mask[:, :, 28:32].mean(dim=2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("changes", [{"num_input_features": 24}, {"num_layers": 4}])
def test_bins_that_a_u_net_cannot_halve_are_refused(changes):
    with pytest.raises(SettingsError, match=r"takes a multiple of \d+ bins; got \d+"):
        small(UNetMaskInference, **changes)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_batch_is_one_by_one_and_twice_is_the_same(kind, n_channels):
    network = small(kind, num_audio_channels=n_channels).eval()
    data = magnitudes(4, 9, 33, n_channels)
    together = network(data)["mask"]
    assert torch.equal(network(data)["mask"], together)
    for i in range(4):
        assert torch.allclose(network(data[i : i + 1])["mask"][0], together[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_silence_and_full_scale_give_numbers(kind):
    network = small(kind).eval()
    for level in (0.0, 1e-12, 1.0, 1e6):
        assert torch.isfinite(network(torch.full((1, 5, 33, 1), level))["mask"]).all()


@pytest.mark.parametrize(
    "kind, lookahead",
    [(MaskInference, 0), (BandSplitMaskInference, 0), (BandSplitMaskInference, 1), (BandSplitMaskInference, 3)],
)
def test_one_direction_knows_the_past_and_the_frames_of_its_lookahead(kind, lookahead):
    network = small(kind, bidirectional=False, **({"lookahead": lookahead} if lookahead else {})).eval()
    data, last = magnitudes(1, 12, 33, 1), 8 - lookahead
    changed = data.clone()
    changed[:, 8:] *= 0.1
    mask, other = network(data)["mask"], network(changed)["mask"]
    assert mask.shape[1] == 12
    assert torch.allclose(mask[:, :last], other[:, :last], rtol=0, atol=1e-6)
    assert not torch.allclose(mask[:, last], other[:, last], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_masks_of_channels_that_go_together_depend_on_each_other(kind):
    network = small(kind, num_audio_channels=2).eval()
    data = magnitudes(1, 6, 33, 2)
    changed = data.clone()
    changed[..., 1] = 0
    assert not torch.allclose(network(data)["mask"][..., 0, :], network(changed)["mask"][..., 0, :], atol=1e-4)


def test_mask_inference_is_the_tutorials_chain_of_nussls_modules():
    """An independent reference: nussl's own modules, put together as the tutorial does, with the same weights."""
    from vocal_extraction.compatibility import nussl

    modules = nussl.ml.networks.modules
    network = small(num_sources=2, num_audio_channels=2, activation="softmax").eval()
    chain = {
        "input_normalization": modules.BatchNorm(33),
        "recurrent_stack": modules.RecurrentStack(66, 6, 2, True, 0.0),
        "embedding": modules.Embedding(33, 12, 2, "softmax", 2),
    }
    torch.nn.ModuleDict(chain).load_state_dict(network.state_dict(), strict=True)
    data = magnitudes(2, 9, 33, 2)
    expected = modules.AmplitudeToDB()(data)
    for module in chain.values():
        expected = module.eval()(expected)
    assert torch.allclose(network(data)["mask"], expected, rtol=0, atol=1e-6)


def one_bin_at_a_time(network, data):
    """Return the masks of a band-split network, its bands cut and joined one by one: a slow, independent reference."""
    edges = band_edges(33, 44_100)
    n_frames, (n_channels, n_sources) = data.shape[1], network.mask_shape
    levels = data.clamp_min(1e-5).log10()
    features = []
    for band, (low, high) in enumerate(pairwise(edges)):
        weight = network.split[band].weight.reshape(6, high - low, n_channels)
        features.append(torch.einsum("tbc,hbc->th", levels[0, :, low:high], weight) + network.split[band].bias)
    stacked = torch.stack(features)  # (n_bands, n_frames, hidden_size)
    for over_time, over_bands in network.rounds:
        stacked = torch.stack([over_time(band[None])[0] for band in stacked])
        stacked = torch.stack([over_bands(stacked[None, :, t])[0] for t in range(n_frames)], dim=1)
    hidden = network.output_normalization(stacked)
    masks = torch.zeros(1, n_frames, 33, n_channels, n_sources)
    for band, (low, high) in enumerate(pairwise(edges)):
        bent = (hidden[band] @ network.hidden.weight[band] + network.hidden.bias[band, 0]).tanh()
        for source, own in enumerate(bent.chunk(n_sources, dim=-1)):  # (n_frames, 2 * hidden_size)
            join = network.join[band]
            joined = join(own) if n_sources == 1 else own @ join.weight[source] + join.bias[source, 0]
            masks[0, :, low:high, :, source] = joined.reshape(n_frames, high - low, n_channels)
    return masks.sigmoid()


@pytest.mark.parametrize("n_channels, n_sources", [(1, 1), (2, 1), (2, 4)])
def test_bands_are_cut_and_joined_where_they_lie(n_channels, n_sources):
    network = small(BandSplitMaskInference, num_audio_channels=n_channels, num_sources=n_sources).eval()
    data = magnitudes(1, 5, 33, n_channels)
    with torch.no_grad():
        torch.testing.assert_close(network(data)["mask"], one_bin_at_a_time(network, data), rtol=0, atol=1e-5)


def test_each_channel_has_a_normalization_of_its_own():
    network = small(BandSplitMaskInference, num_audio_channels=2).train()
    data = magnitudes(4, 20, 33, 2).clamp_min(0.01)
    with torch.no_grad():
        masks, masks_of_scaled = (network(each)["mask"] for each in (data, data * torch.tensor([1.0, 0.01])))
    # In training, a level that all frames share is normalized away.
    torch.testing.assert_close(masks, masks_of_scaled, rtol=0, atol=1e-3)


@pytest.mark.parametrize("change", [{"bands": "odd"}, {"over_bands": "odd"}, {"over_bands": "attention"}])
def test_settings_of_a_band_split_network_are_checked(change):
    with pytest.raises(SettingsError, match=r"bands|Attention"):
        small(BandSplitMaskInference, **change)


def test_attention_runs_over_the_bands_of_each_frame_alone():
    network = small(BandSplitMaskInference, hidden_size=8, bands="fine", over_bands="attention").eval()
    over_bands = network.rounds[0][1]
    features = torch.randn(5, 7, 8)  # (n_frames, n_bands, n_features)
    with torch.no_grad():
        together = over_bands(features)
        alone = torch.cat([over_bands(frame[None]) for frame in features])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_network_learns_a_mask(kind):
    """Twenty steps of Adam towards: keep the upper bins."""
    network = small(kind)
    data = magnitudes(2, 10, 33, 1)
    target = data * (torch.arange(33) >= 16).float()[:, None]
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    losses = []
    for _ in range(20):
        loss = (network(data)["estimates"][..., 0] - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    assert all(torch.isfinite(weights.grad).all() for weights in network.parameters())


def test_the_specifications_custom_example_builds_and_trains_a_step():
    network = MaskInference.build(
        num_features=257,
        num_audio_channels=1,
        hidden_size=100,
        num_layers=3,
        bidirectional=True,
        dropout=0.2,
        num_sources=1,
        activation="sigmoid",
    )
    before = [weights.detach().clone() for weights in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    data = magnitudes(2, 20, 257, 1)
    loss = (network(mix_magnitude=data)["estimates"][..., 0] - data / 2).abs().mean()
    loss.backward()
    optimizer.step()
    assert all(not torch.equal(new, old) for new, old in zip(network.parameters(), before, strict=True))


def test_dropout_works_in_training_only():
    torch.manual_seed(0)
    network = small(dropout=0.5)
    data = magnitudes(1, 6, 33, 1)
    assert not torch.equal(network(data)["mask"], network(data)["mask"])
    network.eval()
    assert torch.equal(network(data)["mask"], network(data)["mask"])


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_activations_are_refused(kind):
    with pytest.raises(SettingsError, match="'relu'"):
        small(kind, activation="relu")


def test_the_band_split_network_knows_its_sample_rate():
    slow = dataclasses.replace(BAND_SPLIT, signal=dataclasses.replace(BAND_SPLIT.signal, sample_rate=22_050))
    fast, slow = (create_model(preset).get_submodule("layers.model.split") for preset in (BAND_SPLIT, slow))
    assert len(fast) > len(slow)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_sources, activation", [(1, "sigmoid"), (2, "softmax")])
def test_an_ensemble_gives_the_mean_of_its_members_masks(kind, n_sources, activation):
    shape = {**SMALL, "dropout": 0.0, "num_sources": n_sources, "activation": activation}
    torch.manual_seed(0)
    ensemble = EnsembleMaskInference(kind.__name__, 3, **shape).eval()
    data = magnitudes(2, 7, 33, 1)
    with torch.no_grad():
        output = ensemble(data)
        masks = [member(data)["mask"] for member in ensemble.members]
    assert not torch.equal(masks[0], masks[1])
    torch.testing.assert_close(output["mask"], (masks[0] + masks[1] + masks[2]) / 3)
    torch.testing.assert_close(output["estimates"], data.unsqueeze(-1) * output["mask"])


@pytest.mark.parametrize(
    "member, n_members",
    [("MaskInference", 0), ("MaskInference", 17), ("MaskInference", 10**9), ("EnsembleMaskInference", 2), ("Mask", 2)],
)
def test_an_ensemble_of_nothing_of_too_many_or_of_ensembles_is_refused(member, n_members):
    with pytest.raises(SettingsError, match="expected 1 to 16 networks"):
        EnsembleMaskInference(member, n_members, **SMALL, dropout=0.0, num_sources=1)
