"""Channels that know of each other: what the network hears of them, and what its masks do to them."""

import numpy as np
import pytest
import torch
from extraction_models import ConstantMask, loaded

from vocal_extraction.separation.separation import separate
from vocal_extraction.settings import SignalSettings
from vocal_extraction.stereo import in_groups, infer_masks

RATE = 44_100


class FirstOnly(torch.nn.Module):
    """A mask of 1 for the first of two channels, 0 for the second."""

    def __init__(self):
        super().__init__()
        self.mask = torch.nn.Parameter(torch.tensor([[1.0], [0.0]]))

    def forward(self, data):
        return {"mask": self.mask.expand(*data["mix_magnitude"].shape, 1)}


class LevelMask(torch.nn.Module):
    """A mask that follows the level of what is heard."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, data):
        return {"mask": (self.scale * data["mix_magnitude"]).clamp(0, 1).unsqueeze(-1)}


def noise(n_channels, seed=0, n_samples=30_000):
    return 0.1 * np.random.default_rng(seed).standard_normal((n_channels, n_samples)).astype(np.float32)


def test_a_mask_on_the_side_leaves_the_middle():
    """What sounds alike in both channels stays; what differs in sign alone goes, to rounding."""
    (middle,), (beside,) = noise(1, 0), noise(1, 1)
    model = loaded(FirstOnly(), n_channels=2, signal=SignalSettings(stereo="mid-side"))
    vocals, rest = separate(np.stack([middle + beside, middle - beside]), RATE, model=model)
    np.testing.assert_allclose(vocals, [middle, middle], atol=1e-6)
    np.testing.assert_allclose(rest, [beside, -beside], atol=1e-6)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_channel_without_a_partner_is_its_own(n_channels):
    """Repeated, it has no side; so the mask on mid alone lets all of it through."""
    mixture = noise(n_channels)
    model = loaded(FirstOnly(), n_channels=2, signal=SignalSettings(stereo="mid-side"))
    vocals, _ = separate(mixture, RATE, model=model)
    assert vocals.shape == mixture.shape
    np.testing.assert_allclose(vocals[-1], mixture[-1], atol=1e-6)


@pytest.mark.parametrize("stereo", ["each", "mid-side"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_a_mask_of_a_half_halves_every_channel(stereo, n_channels):
    mixture = noise(2)
    model = loaded(ConstantMask(0.5), n_channels=n_channels, signal=SignalSettings(stereo=stereo))
    vocals, _ = separate(mixture, RATE, model=model)
    np.testing.assert_allclose(vocals, mixture / 2, atol=1e-6)


def test_a_network_for_one_channel_hears_mid_and_side_in_turn():
    """A mask that follows the level, found for mid and for side: by hand, and through a song."""
    mixture = 10 * noise(2)
    magnitudes = torch.rand(2, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(infer_masks(LevelMask(), magnitudes, n_network_channels=1)[..., 0], magnitudes)
    together, _ = separate(mixture, RATE, model=loaded(LevelMask(), signal=SignalSettings(stereo="mid-side")))
    views = np.stack([mixture[0] + mixture[1], mixture[0] - mixture[1]]) / 2
    mid, side = separate(views, RATE, model=loaded(LevelMask()))[0]
    np.testing.assert_allclose(together, [mid + side, mid - side], atol=1e-6)
    apart, _ = separate(mixture, RATE, model=loaded(LevelMask()))
    assert np.abs(apart - together).max() > 1e-4


def test_groups_repeat_the_last_channel():
    samples = torch.arange(6.0).reshape(1, 3, 2)
    assert in_groups(samples, 2).tolist() == [[[0, 1], [2, 3]], [[4, 5], [4, 5]]]
