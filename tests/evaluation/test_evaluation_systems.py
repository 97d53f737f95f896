"""Baselines and oracles: each is what its formula says, on short songs and on songs that are read in blocks."""

import numpy as np
import pytest
import torch
from evaluation_songs import SIGNAL, songs_in, write_songs

from vocal_extraction.evaluation import scoring
from vocal_extraction.evaluation.metrics import choose_metrics
from vocal_extraction.evaluation.scoring import score_song
from vocal_extraction.evaluation.systems import SYSTEMS, Excerpt, Sources, systems_beside
from vocal_extraction.spectrogram import istft, stft

pytestmark = pytest.mark.usefixtures("quick_evaluation")

ORACLES = [name for name, kind in SYSTEMS.items() if kind.role == "oracle"]
PRIMITIVES = ["repet_sim", "ft2d", "hpss"]
TWO = Sources(("vocals",), "bass+drums+other")
FOUR = Sources(("vocals", "bass", "drums", "other"))


def excerpt_of_noise(sources=TWO, *, song="noise"):
    rng = np.random.default_rng(0)
    stems = rng.standard_normal((len(sources.names), 2, 20_000)).astype(np.float32)
    return Excerpt(song, 0, 8_000, stems, sources)


def estimate(name, excerpt):
    return SYSTEMS[name].estimate(excerpt, signal=SIGNAL)


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
    vocals, rest = estimate(kind, excerpt)
    np.testing.assert_allclose(vocals, by_formula(excerpt, formula), atol=1e-5)
    np.testing.assert_allclose(vocals + rest, excerpt.mixture, atol=1e-5)


@pytest.mark.parametrize("kind", ORACLES)
def test_ideal_masks_of_a_source_alone_give_that_source(kind):
    excerpt = excerpt_of_noise()
    excerpt.references[1] = 0.0
    vocals, rest = estimate(kind, excerpt)
    np.testing.assert_allclose(vocals, excerpt.references[0], atol=1e-5)
    np.testing.assert_allclose(rest, 0.0, atol=1e-5)


@pytest.mark.parametrize("kind", ORACLES)
def test_ideal_masks_of_silence_are_silent(kind):
    excerpt = Excerpt("silence", 0, 8_000, np.zeros((2, 1, 5_000), np.float32), TWO)
    assert not estimate(kind, excerpt).any()


def test_the_mixture_stands_for_every_source():
    excerpt = excerpt_of_noise()
    for found in estimate("mixture", excerpt):
        np.testing.assert_array_equal(found, excerpt.references.sum(axis=0))


def test_random_masks_are_the_same_in_every_run_and_halve_the_mixture():
    excerpt = excerpt_of_noise()
    first, again = (estimate("random_mask", excerpt) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = estimate("random_mask", excerpt_of_noise(song="another song"))
    assert np.abs(other - first).max() > 0.1
    # The mean of the masks is a half, so that is the best scale of the mixture in the estimate.
    scale = (first[0] * excerpt.mixture).sum() / np.square(excerpt.mixture).sum()
    assert scale == pytest.approx(0.5, abs=0.02)


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    return songs_in(write_songs(tmp_path_factory.mktemp("songs")), limit=1)[0]


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_nussls_separators_run_here(kind, song):
    """Their parts add up to the mixture, and are not all of it."""
    excerpt = Excerpt(song.name, 0, song.sample_rate, TWO.of(song).read(0, song.n_samples), TWO)
    estimates = estimate(kind, excerpt)
    np.testing.assert_allclose(estimates.sum(axis=0), excerpt.mixture, atol=1e-5)
    share = np.square(estimates[0]).sum() / np.square(excerpt.mixture).sum()
    assert 0.01 < share < 0.99


def test_silence_goes_past_nussls_separators():
    excerpt = Excerpt("silence", 0, 8_000, np.zeros((2, 2, 8_000), np.float32), TWO)
    for kind in PRIMITIVES:
        assert not estimate(kind, excerpt).any()


def test_systems_estimate_four_sources():
    excerpt = excerpt_of_noise(FOUR)
    for name in ("mixture", "random_mask", *ORACLES):
        assert estimate(name, excerpt).shape == excerpt.references.shape, name
    assert np.abs(estimate("ideal_ratio_mask", excerpt).sum(axis=0) - excerpt.mixture).max() < 1e-5
    binary = estimate("ideal_binary_mask", excerpt)
    assert np.abs(binary.sum(axis=0) - excerpt.mixture).max() < 1e-5, "every bin belongs to one source"


def test_a_long_song_scores_as_it_would_at_once(song, monkeypatch):
    """Read in three blocks, a song has the scores of the whole song: ideal masks see the same frames."""
    systems = systems_beside(SIGNAL, oracles=True, baselines=False)
    options = {"sources": TWO, "metrics": choose_metrics(None)}
    whole = score_song(TWO.of(song), systems, **options)
    monkeypatch.setattr(scoring, "GRID_SAMPLES", 256)
    monkeypatch.setattr(scoring, "BLOCK_SAMPLES", 8_192)
    monkeypatch.setattr(scoring, "CONTEXT_SAMPLES", 256)
    assert len(list(scoring.excerpts(TWO.of(song), TWO))) == 3
    in_blocks = score_song(TWO.of(song), systems, **options)
    for system, sources in whole.items():
        for source, metrics in sources.items():
            for metric, entry in metrics.items():
                found = in_blocks[system][source][metric]["value"]
                assert found == pytest.approx(entry["value"], abs=1e-3), (system, source, metric)  # dB
