"""Floors and ceilings: each is what its formula says, on short songs and on songs that are cut into blocks."""

import functools

import numpy as np
import pytest
import torch

from vocal_extraction.evaluation import scoring
from vocal_extraction.evaluation.scoring import score_song
from vocal_extraction.evaluation.separators import (
    BASELINES,
    ORACLES,
    Excerpt,
    ideal_mask,
    mixture_as_estimate,
    nussl_primitive,
    random_mask,
)
from vocal_extraction.evaluation.songs import find_songs
from vocal_extraction.settings import SignalSettings
from vocal_extraction.spectrogram import istft, stft

SIGNAL = SignalSettings()


def excerpt_of_noise(*, n_samples=20_000, start=0):
    rng = np.random.default_rng(0)
    return Excerpt("noise", start, 44_100, rng.standard_normal((2, 2, n_samples)).astype(np.float32))


def by_formula(excerpt, formula):
    """Apply a mask, given as a function of V, B and X, as docs/evaluation.md has it."""
    vocals, rest = (torch.from_numpy(x).double() for x in excerpt.references)
    spectra = [stft(x, signal=SIGNAL) for x in (vocals, rest, vocals + rest)]
    return istft(formula(*spectra) * spectra[2], n_samples=vocals.shape[1], signal=SIGNAL).numpy()


@pytest.mark.parametrize(
    "kind, formula",
    [
        ("ideal_ratio_mask", lambda v, b, x: v.abs() / (v.abs() + b.abs() + 1e-12)),
        ("ideal_binary_mask", lambda v, b, x: (v.abs() > b.abs()).double()),
        ("phase_sensitive_mask", lambda v, b, x: (v / x).real.clamp(0, 1)),
    ],
)
def test_ideal_masks_follow_their_formulas(kind, formula):
    excerpt = excerpt_of_noise()
    vocals, rest = ideal_mask(excerpt, kind=kind, signal=SIGNAL)
    np.testing.assert_allclose(vocals, by_formula(excerpt, formula), atol=1e-5)
    np.testing.assert_allclose(vocals + rest, excerpt.mixture, atol=1e-5)


@pytest.mark.parametrize("kind", ORACLES)
def test_ideal_masks_of_a_source_alone_give_that_source(kind):
    excerpt = excerpt_of_noise()
    excerpt.references[1] = 0.0
    vocals, rest = ideal_mask(excerpt, kind=kind, signal=SIGNAL)
    np.testing.assert_allclose(vocals, excerpt.references[0], atol=1e-5)
    np.testing.assert_allclose(rest, 0.0, atol=1e-5)


@pytest.mark.parametrize("kind", ORACLES)
def test_ideal_masks_of_silence_are_silent(kind):
    excerpt = Excerpt("silence", 0, 44_100, np.zeros((2, 1, 5_000), np.float32))
    assert not ideal_mask(excerpt, kind=kind, signal=SIGNAL).any()


def test_the_mixture_stands_for_every_source():
    excerpt = excerpt_of_noise()
    for estimate in mixture_as_estimate(excerpt):
        np.testing.assert_array_equal(estimate, excerpt.references.sum(axis=0))


def test_random_masks_are_the_same_in_every_run_and_halve_the_mixture():
    excerpt = excerpt_of_noise()
    first, again = (random_mask(excerpt, signal=SIGNAL) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = random_mask(Excerpt("another song", 0, 44_100, excerpt.references), signal=SIGNAL)
    assert np.abs(other - first).max() > 0.1
    # The mean of the masks is a half, so that is the best scale of the mixture in the estimate.
    scale = (first[0] * excerpt.mixture).sum() / np.square(excerpt.mixture).sum()
    assert scale == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("kind", [name for name in BASELINES if name != "random_mask"])
def test_nussls_separators_run_here(kind, demo_dataset):
    """Their parts add up to the mixture, and are not all of it."""
    song = find_songs(demo_dataset, subset="test", limit=1)[0]
    excerpt = Excerpt(song.name, 0, song.sample_rate, song.read(0, 3 * song.sample_rate))
    estimates = nussl_primitive(excerpt, kind=kind)
    np.testing.assert_allclose(estimates.sum(axis=0), excerpt.mixture, atol=1e-5)
    share = np.square(estimates[0]).sum() / np.square(excerpt.mixture).sum()
    assert 0.01 < share < 0.99


def test_a_long_song_scores_as_it_would_in_one_piece(demo_dataset, monkeypatch):
    """Cut into blocks of 3 s, a song has the scores of the whole song: ideal masks see the same frames."""
    song = find_songs(demo_dataset, subset="test", limit=1)[0]
    rows = {kind: functools.partial(ideal_mask, kind=kind, signal=SIGNAL) for kind in ORACLES}
    rows["mixture"] = mixture_as_estimate
    whole = score_song(song, rows, families=("scale", "bsseval_v4"))
    monkeypatch.setattr(scoring, "BLOCK_SAMPLES", 8 * scoring.GRID_SAMPLES)
    monkeypatch.setattr(scoring, "CONTEXT_SAMPLES", scoring.GRID_SAMPLES)
    assert len(list(scoring.excerpts(song))) == 3
    cut = score_song(song, rows, families=("scale", "bsseval_v4"))
    for row, sources in whole.items():
        for source, metrics in sources.items():
            for metric, entry in metrics.items():
                found = cut[row][source][metric]["value"]
                assert found == pytest.approx(entry["value"], abs=1e-3), (row, source, metric)  # dB
