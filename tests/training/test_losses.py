"""Losses of batches of waveforms: by hand, and against nussl's transforms and scores."""

import dataclasses

import numpy as np
import pytest
import torch
from training_presets import tiny_preset

from vocal_extraction.compatibility import nussl
from vocal_extraction.data_augmentation import create_mix_closure
from vocal_extraction.networks import create_model
from vocal_extraction.presets import SPECIFIED
from vocal_extraction.settings import MixingSettings
from vocal_extraction.training.losses import estimate_sources, item_losses, si_sdr_db
from vocal_extraction.training.mixtures import MixtureDataset

SHORT = MixingSettings(duration_s=0.5)
VOCALS = ("vocals",)


def test_magnitude_loss_is_the_tutorials(demo_dataset):
    """nussl's own transforms and L1, on signals, against the batch of waveforms."""
    transforms = nussl.datasets.transforms
    stft = {"window_length": 512, "hop_length": 128, "window_type": "sqrt_hann"}
    closure = create_mix_closure(demo_dataset, "train", mixing=SHORT)
    dataset = nussl.datasets.OnTheFly(
        closure,
        num_mixtures=2,
        stft_params=nussl.STFTParams(**stft),
        sample_rate=44_100,
        transform=transforms.Compose(
            [
                transforms.SumSources([["bass", "drums", "other"]]),
                transforms.MagnitudeSpectrumApproximation(),
                transforms.IndexSources("source_magnitudes", 1),
                transforms.ToSeparationModel(),
            ]
        ),
    )
    network = create_model(tiny_preset()).eval()
    ours = item_losses(
        network, MixtureDataset(closure, VOCALS).batch([(0, 0), (0, 1)])["sources"], preset=tiny_preset()
    )
    for index in range(2):
        item = {name: value[None].float() for name, value in dataset[index].items() if torch.is_tensor(value)}
        estimates = network(item)["estimates"]
        expected = torch.nn.functional.l1_loss(estimates, item["source_magnitudes"])
        assert ours[index].item() == pytest.approx(expected.item(), rel=1e-4)  # float32, summed in another order


class _HalfMask(torch.nn.Module):
    def forward(self, data):
        magnitudes = data["mix_magnitude"]
        mask = torch.full((*magnitudes.shape, 1), 0.5)
        return {"mask": mask, "estimates": mask * magnitudes.unsqueeze(-1)}


def test_waveform_loss_of_a_known_mask():
    """Half of a mixture of vocals v alone leaves an error of v / 2: 10 log10(1/4 + 1/1000) dB."""
    vocals = torch.randn(2, 1, 1, 22_050)
    sources = torch.cat((torch.zeros_like(vocals), vocals), dim=1)
    losses = item_losses(_HalfMask(), sources, preset=tiny_preset(loss="waveform"))
    assert losses.tolist() == pytest.approx([10 * np.log10(0.251)] * 2, abs=1e-3)


def test_loss_of_a_batch_is_the_logarithm_of_its_mean():
    """Two of three mixtures have vocals v alone (error 1/4), one has none (error 1/4); one target is not known."""
    vocals, rest = torch.randn(2, 4, 1, 1, 22_050)
    sources = torch.cat((rest * torch.tensor([0, 0, 1, 1])[:, None, None, None], vocals), dim=1)
    sources[2, 1] = 0
    known = torch.tensor([[True], [True], [True], [False]])
    sources[3, 1] *= 100
    losses = item_losses(_HalfMask(), sources, preset=tiny_preset(loss="waveform_batch"), known=known)
    assert losses.tolist() == pytest.approx([10 * np.log10(0.251)] * 4, abs=1e-3)


@pytest.mark.parametrize("stereo", ["each", "mid-side"])
def test_loss_of_spectra_is_that_of_waveforms_where_masked_frames_agree(stereo):
    """A mask that is the same everywhere contradicts nothing; only windows that overhang the ends count more."""
    sources = torch.randn(2, 2, 2, 44_100, generator=torch.Generator().manual_seed(0))
    by_loss = {
        loss: item_losses(
            _HalfMask(),
            sources * torch.tensor([1.0, 0.5]).reshape(2, 1, 1),
            preset=tiny_preset(loss=loss, stereo=stereo),
        )
        for loss in ("spectrum_batch", "waveform_batch")
    }
    assert by_loss["spectrum_batch"].tolist() == pytest.approx(by_loss["waveform_batch"].tolist(), abs=0.02)


def test_sources_are_weighted_in_the_loss():
    preset = dataclasses.replace(tiny_preset(loss="waveform"), sources=("bass", "vocals"))
    weighted = dataclasses.replace(preset, training=dataclasses.replace(preset.training, source_weights=(1.0, 3.0)))

    class TwoMasks(torch.nn.Module):
        def forward(self, data):
            return {"mask": torch.tensor([0.0, 1.0]).expand(*data["mix_magnitude"].shape, 2)}

    sources = torch.zeros(1, 3, 1, 22_050)
    sources[0, 1] = torch.randn(1, 22_050)  # bass alone: missed whole, and wholly in the vocals
    assert item_losses(TwoMasks(), sources, preset=preset).item() == pytest.approx(10 * np.log10(1.001), abs=1e-3)
    sources[0, 2] = sources[0, 1]  # half of the mixture each: errors of 1/4 and 1/4
    assert item_losses(TwoMasks(), sources, preset=weighted).item() == pytest.approx(10 * np.log10(0.251), abs=1e-3)
    sources[0, 1] /= 1e3
    expected = (10 * np.log10(0.001) + 3 * 10 * np.log10(0.001)) / 4
    assert item_losses(TwoMasks(), sources, preset=weighted).item() == pytest.approx(expected, abs=0.05)


def test_silent_mixture_has_a_finite_loss():
    for loss in ("waveform", "waveform_batch", "magnitude_l1"):
        losses = item_losses(_HalfMask(), torch.zeros(2, 2, 1, 8_000), preset=tiny_preset(loss=loss))
        assert torch.isfinite(losses).all()


def test_si_sdr_of_a_song_is_nussls():
    generator = torch.Generator().manual_seed(0)
    vocals, rest = torch.randn(2, 2, 44_100, generator=generator)
    mixture = vocals + 0.5 * rest
    estimates = estimate_sources(_HalfMask(), mixture, signal=SPECIFIED.signal, n_network_channels=1)
    ours = si_sdr_db(estimates, vocals[None]).item()
    evaluator = nussl.evaluation.BSSEvalScale(
        [nussl.AudioSignal(audio_data_array=vocals.numpy(), sample_rate=44_100)],
        [nussl.AudioSignal(audio_data_array=0.5 * mixture.numpy(), sample_rate=44_100)],
        source_labels=["vocals"],
    )
    theirs = np.median(evaluator.evaluate()["vocals"]["SI-SDR"])
    assert ours == pytest.approx(theirs, abs=0.01)  # nussl takes the mean off first


def test_long_songs_go_through_in_chunks(monkeypatch):
    """A constant mask gives the same in chunks as at once: 0.1 dB for the edges of the chunks' frames."""
    vocals, rest = torch.randn(2, 1, 88_200, generator=torch.Generator().manual_seed(0))
    whole = si_sdr_db(
        estimate_sources(_HalfMask(), vocals + rest, signal=SPECIFIED.signal, n_network_channels=1), vocals[None]
    ).item()
    monkeypatch.setattr("vocal_extraction.training.losses._LONGEST_CHUNK_S", 0.5)
    chunks = si_sdr_db(
        estimate_sources(_HalfMask(), vocals + rest, signal=SPECIFIED.signal, n_network_channels=1), vocals[None]
    ).item()
    assert chunks == pytest.approx(whole, abs=0.1)
