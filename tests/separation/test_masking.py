"""Channels in groups: what a network takes of them, and what its masks do to them."""

import numpy as np
import pytest
import torch
from extraction_models import ConstantMask, loaded

from vocal_extraction.separation import separate
from vocal_extraction.separation.masking import infer_masks, source_mask
from vocal_extraction.settings import SignalSettings

RATE = 44_100


class FirstOnly(torch.nn.Module):
    """A mask of 1 for the first of two channels, 0 for the second."""

    def __init__(self):
        super().__init__()
        self.mask = torch.nn.Parameter(torch.tensor([[1.0], [0.0]]))

    def forward(self, data):
        return {"mask": self.mask.expand(*data["mix_magnitude"].shape, 1)}


class LevelMask(torch.nn.Module):
    """A mask that follows the level of its input."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, data):
        return {"mask": (self.scale * data["mix_magnitude"]).clamp(0, 1).unsqueeze(-1)}


def noise(n_channels, seed=0, n_samples=30_000):
    return 0.1 * np.random.default_rng(seed).standard_normal((n_channels, n_samples)).astype(np.float32)


def test_a_mask_on_the_side_leaves_the_middle():
    """What sounds alike in both channels stays; what differs in sign alone goes, to rounding."""
    (middle,), (beside,) = noise(1, 0), noise(1, 1) / 2
    model = loaded(FirstOnly(), n_channels=2, signal=SignalSettings(stereo="mid-side"))
    stems = separate(np.stack([middle + beside, middle - beside]), RATE, model=model)
    np.testing.assert_allclose(stems["vocals"], [middle, middle], atol=1e-6)
    np.testing.assert_allclose(stems["accompaniment"], [beside, -beside], atol=1e-6)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_channel_without_a_partner_is_its_own(n_channels):
    """Repeated, it has no side; so the mask on mid alone lets all of it through."""
    mixture = noise(n_channels)
    model = loaded(FirstOnly(), n_channels=2, signal=SignalSettings(stereo="mid-side"))
    vocals = separate(mixture, RATE, model=model)["vocals"]
    assert vocals.shape == mixture.shape
    np.testing.assert_allclose(vocals[-1], mixture[-1], atol=1e-6)


@pytest.mark.parametrize("stereo", ["each", "mid-side"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_a_mask_of_a_half_halves_every_channel(stereo, n_channels):
    mixture = noise(2)
    model = loaded(ConstantMask(0.5), n_channels=n_channels, signal=SignalSettings(stereo=stereo))
    vocals = separate(mixture, RATE, model=model)["vocals"]
    np.testing.assert_allclose(vocals, mixture / 2, atol=1e-6)


def test_a_network_for_one_channel_takes_mid_and_side_in_turn():
    """A mask that follows the level, found for mid and for side: by hand, and through a song."""
    mixture = 10 * (noise(2) + noise(1, 2))
    magnitudes = torch.rand(2, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(infer_masks(LevelMask(), magnitudes, n_network_channels=1)[..., 0], magnitudes)
    together = separate(mixture, RATE, model=loaded(LevelMask(), signal=SignalSettings(stereo="mid-side")))["vocals"]
    views = np.stack([mixture[0] + mixture[1], mixture[0] - mixture[1]]) / 2
    mid, side = separate(views, RATE, model=loaded(LevelMask()))["vocals"]
    np.testing.assert_allclose(together, [mid + side, mid - side], atol=1e-6)
    by_channel = separate(mixture, RATE, model=loaded(LevelMask()))["vocals"]
    assert np.abs(by_channel - together).max() > 1e-4


def test_a_binary_mask_belongs_to_the_largest_source():
    masks = torch.tensor([[0.3, 0.4], [0.9, 0.8]])
    assert source_mask(masks, 1, kind="binary").tolist() == [1, 0]
    assert source_mask(masks, 0, kind="binary").tolist() == [0, 1]
    assert source_mask(masks[:, :1], 0, kind="binary").tolist() == [0, 1], "with one source above a half"
    torch.testing.assert_close(source_mask(masks, 1, kind="soft"), masks[:, 1])
