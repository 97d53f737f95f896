"""The building blocks equal nussl's, given the same weights, and the bands tile the spectrum."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from vocal_extraction.errors import SettingsError
from vocal_extraction.networks import layers
from vocal_extraction.networks.layers import (
    AmplitudeToDB,
    BandLinear,
    BatchNorm,
    Embedding,
    RecurrentStack,
    ResidualLSTM,
    activate,
    band_edges,
    known_activation,
)


@pytest.fixture(scope="module")
def reference():
    from vocal_extraction.compatibility import nussl

    return nussl.ml.networks.modules


def magnitudes(*shape, seed=0):
    """Magnitudes from 0 to 1, a tenth of them exactly 0."""
    drawn = np.random.default_rng(seed).uniform(-0.1, 1, shape)
    return torch.from_numpy(drawn.clip(0)).float()


def same_weights(mine, theirs):
    """Both in eval(), with the weights of mine; the names must agree."""
    theirs.load_state_dict(mine.state_dict(), strict=True)
    return mine.eval(), theirs.eval()


def test_amplitude_to_db(reference):
    data = magnitudes(2, 7, 33, 2)
    found = AmplitudeToDB()(data)
    assert torch.allclose(found, reference.AmplitudeToDB()(data), rtol=0, atol=1e-4)  # decibels
    assert torch.allclose(AmplitudeToDB()(torch.tensor([1.0, 0.1, 0.0])), torch.tensor([0.0, -20.0, -80.0]))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(reference, training):
    mine = BatchNorm(33)
    with torch.no_grad():
        for values in mine.state_dict().values():
            if values.is_floating_point():
                values.uniform_(0.5, 1.5)
    mine, theirs = same_weights(mine, reference.BatchNorm(33))
    data = magnitudes(3, 7, 33, 2)
    found, expected = mine.train(training)(data), theirs.train(training)(data)
    assert found.shape == data.shape
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    for name, values in mine.state_dict().items():
        assert torch.allclose(values, theirs.state_dict()[name], rtol=1e-6, atol=0)


def test_batch_norm_of_bins_that_hardly_sound():
    """Sums of their decibels must not hide what little they vary: torch's own are wrong by 2e-3, or by 0.9 in rows."""
    torch.manual_seed(0)
    data = torch.rand(10, 1_700, 5, 1) * torch.tensor([[30.0], [1.0], [1e-2], [1e-3], [0.0]]) - 80.0
    found, expected = (BatchNorm(5).to(kind).train()(data.to(kind)) for kind in (torch.float32, torch.float64))
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_recurrent_stack(reference, n_layers, bidirectional):
    mine, theirs = same_weights(
        RecurrentStack(33 * 2, 6, n_layers, bidirectional, 0.0),
        reference.RecurrentStack(33 * 2, 6, n_layers, bidirectional, 0.0),
    )
    data = magnitudes(2, 9, 33, 2)
    assert mine(data).shape == (2, 9, 12 if bidirectional else 6)
    assert torch.allclose(mine(data), theirs(data), rtol=0, atol=1e-6)


def test_recurrent_stack_starts_as_nussls(reference):
    """The same draws in the same order: a network seeded alike starts alike."""
    torch.manual_seed(0)
    mine = RecurrentStack(33, 6, 2, True, 0.3)
    torch.manual_seed(0)
    theirs = reference.RecurrentStack(33, 6, 2, True, 0.3)
    for (name, weights), expected in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(weights, expected), name


def test_dropout_without_a_second_layer_is_no_warning(recwarn):
    assert RecurrentStack(5, 4, 1, True, 0.3).rnn.dropout == 0
    assert RecurrentStack(5, 4, 2, True, 0.3).rnn.dropout == 0.3
    assert [str(warning.message) for warning in recwarn if "dropout" in str(warning.message)] == []


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("n_channels, n_sources", [(1, 1), (1, 4), (2, 2)])
def test_embedding(reference, activation, n_channels, n_sources):
    mine, theirs = same_weights(
        Embedding(33, 12, n_sources, activation, n_channels),
        reference.Embedding(33, 12, n_sources, [activation], n_channels),
    )
    data = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(0))
    assert mine(data).shape == (2, 9, 33, n_channels, n_sources)
    assert torch.allclose(mine(data), theirs(data), rtol=0, atol=1e-6)


def test_softmax_sums_to_one_over_the_sources():
    masks = activate(torch.randn(2, 3, 4, 1, 4, generator=torch.Generator().manual_seed(0)), "softmax")
    assert torch.allclose(masks.sum(dim=-1), torch.ones(2, 3, 4, 1))


@pytest.mark.parametrize("activation", ["relu", "", None, ["sigmoid", "unit_norm"], []])
def test_unknown_activations_are_refused(activation):
    with pytest.raises(SettingsError, match="expected 'sigmoid' or 'softmax'"):
        Embedding(33, 12, 1, activation, 1)


def test_activation_may_come_in_a_list_as_nussl_writes_it():
    assert known_activation(["sigmoid"]) == "sigmoid"


RATES_AND_BINS = [
    (44_100, 257),
    (44_100, 1_025),
    (44_100, 2_049),
    (8_000, 257),
    (16_000, 9),
    (192_000, 8_193),
    (48_000, 2),
]


@pytest.mark.parametrize("sample_rate, n_bins", RATES_AND_BINS)
def test_bands_tile_the_spectrum(sample_rate, n_bins):
    edges = band_edges(n_bins, sample_rate)
    assert edges[0] == 0
    assert edges[-1] == n_bins
    assert all(low < high for low, high in pairwise(edges))


def test_bands_have_the_widths_that_are_promised():
    hz_per_bin = 44_100 / 2 / 2_048
    edges_hz = np.array(band_edges(2_049, 44_100)) * hz_per_bin
    low, widths_hz = edges_hz[:-1], np.diff(edges_hz)
    for start_hz, end_hz, width_hz in (
        (0, 1_000, 125),
        (1_000, 4_000, 250),
        (4_000, 8_000, 500),
        (8_000, 20_000, 2_000),
    ):
        within = (low > start_hz - hz_per_bin) & (low < end_hz - width_hz / 2)
        assert within.sum() == (end_hz - start_hz) // width_hz
        assert np.abs(widths_hz[within] - width_hz).max() <= hz_per_bin  # both edges are rounded to a bin


def test_a_sliver_at_the_top_joins_the_band_below():
    edges = band_edges(2_049, 44_100)
    assert edges[-1] - edges[-2] >= (edges[-2] - edges[-3]) // 4


def test_band_linear_is_one_linear_map_a_band():
    torch.manual_seed(0)
    together = BandLinear(3, 5, 4)
    nn.init.normal_(together.bias)
    data = torch.randn(3, 7, 5)
    for band in range(3):
        alone = nn.functional.linear(data[band], together.weight[band].T, together.bias[band, 0])
        assert torch.allclose(together(data)[band], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_residual_lstm_adds_to_what_came_in(bidirectional):
    torch.manual_seed(0)
    block = ResidualLSTM(6, 5, bidirectional, dropout=0.0)
    data = torch.randn(2, 9, 6)
    assert block(data).shape == data.shape
    nn.init.zeros_(block.projection.weight)
    nn.init.zeros_(block.projection.bias)
    assert torch.equal(block(data), data)


def test_residual_lstm_of_one_direction_is_causal():
    torch.manual_seed(0)
    block = ResidualLSTM(6, 5, False, dropout=0.0).eval()
    data = torch.randn(1, 9, 6)
    changed = data.clone()
    changed[:, 5:] += 1
    assert torch.equal(block(data)[:, :5], block(changed)[:, :5])
    assert not torch.equal(block(data)[:, 5:], block(changed)[:, 5:])


def test_a_blueprint_draws_nothing():
    """On the meta device there are no weights; to draw them would import torch's compiler."""
    before = torch.get_rng_state()
    with torch.device("meta"):
        stack, linear = RecurrentStack(33, 6, 2, True, 0.3), BandLinear(3, 5, 4)
    assert all(weights.is_meta for weights in [*stack.parameters(), *linear.parameters()])
    assert torch.equal(torch.get_rng_state(), before)
    weights = torch.zeros(40, 50)
    layers.draw_weights(weights)
    # Glorot and Bengio 2010: variance 2 / (fan in + fan out); of 2,000 draws, within a tenth.
    assert weights.std().item() == pytest.approx((2 / 90) ** 0.5, rel=0.1)
