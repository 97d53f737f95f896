"""Metrics: equal to nussl's and museval's on the same arrays, to fixed values, and to what the definitions say."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocal_extraction.evaluation import bsseval_v4
from vocal_extraction.evaluation.bsseval_v4 import BSSEVAL_METRICS, BssEvalV4
from vocal_extraction.evaluation.scale_metrics import LIMIT_DB, SCALE_METRICS, ScaleMetrics

pytestmark = pytest.mark.usefixtures("quick_evaluation")

SAME_ARITHMETIC_DB = 1e-6
"""nussl subtracts signals, we subtract energies: they differ by rounding only."""

SAME_FITS_DB = 1e-3
"""museval and we solve the same equations, whose condition is up to 1e13, by different eliminations."""


def noise(seed, *, n_channels=2, n_samples=12_000):
    """References (2, n_channels, n_samples) and estimates of them with leakage and noise of their own."""
    rng = np.random.default_rng(seed)
    references = rng.standard_normal((2, n_channels, n_samples)) * np.array([0.5, 1.0])[:, None, None] + 0.01
    vocals = 0.8 * references[0] + 0.1 * references[1] + 0.2 * rng.standard_normal((n_channels, n_samples))
    return references, np.stack([vocals, references.sum(axis=0) - vocals])


def scale_values(references, estimates, *, block=5_000):
    scale = ScaleMetrics(8_000)
    for start in range(0, references.shape[-1], block):
        scale.add(references[..., start : start + block], estimates[None, ..., start : start + block])
    return {name: values[0].T for name, values in scale.values().items()}


def bsseval_values(references, estimates, sample_rate, *, block=3_000):
    bsseval = BssEvalV4(sample_rate)
    for start in range(0, references.shape[-1], block):
        bsseval.add(references[..., start : start + block], estimates[None, ..., start : start + block])
    return {name: values[0] for name, values in bsseval.values().items()}


def museval_values(references, estimates, sample_rate):
    from vocal_extraction.compatibility import museval

    turned = (signals.transpose(0, 2, 1) for signals in (references, estimates))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = museval.metrics.bss_eval(*turned, window=sample_rate, hop=sample_rate, filters_len=bsseval_v4.N_TAPS)[
            :4
        ]
    return dict(zip(BSSEVAL_METRICS, values, strict=True))


@pytest.mark.parametrize("n_channels", [1, 2])
def test_scale_metrics_agree_with_nussl(n_channels):
    from vocal_extraction.compatibility import nussl

    references, estimates = noise(0, n_channels=n_channels)

    def signals(stack):
        return [nussl.AudioSignal(audio_data_array=one.copy(), sample_rate=44_100) for one in stack]

    expected = nussl.evaluation.BSSEvalScale(
        signals(references), signals(estimates), source_labels=["v", "b"]
    ).evaluate()
    found = scale_values(references, estimates)
    for name in SCALE_METRICS:
        np.testing.assert_allclose(
            found[name].T, [expected["v"][name], expected["b"][name]], atol=SAME_ARITHMETIC_DB, err_msg=name
        )


def test_scale_metrics_of_seeded_noise_stay_what_they_were():
    found = scale_values(*noise(1))
    vocals = {name: round(float(np.median(values[:, 0])), 4) for name, values in found.items()}
    assert vocals == {
        "SI-SDR": 5.0077,
        "SI-SIR": 12.1731,
        "SI-SAR": 5.9343,
        "SD-SDR": 4.1871,
        "SNR": 6.1684,
        "SRR": 11.8276,
        "SI-SDRi": 11.2283,
        "SD-SDRi": 10.4079,
        "SNRi": 12.2493,
    }


def test_si_sdr_of_known_energies():
    """A reference of energy 1 and an error of energy 1/100 at a right angle to it: 20 dB."""
    n = 4_000
    t = np.arange(n)
    reference = np.sin(2 * np.pi * 40 * t / n)
    error = 0.1 * np.sin(2 * np.pi * 70 * t / n)
    rest = np.sin(2 * np.pi * 90 * t / n)
    found = scale_values(np.stack([reference, rest])[:, None], np.stack([reference + error, rest - error])[:, None])
    for name in ("SI-SDR", "SI-SAR", "SNR"):
        assert found[name][0, 0] == pytest.approx(20.0, abs=1e-6)
    assert found["SI-SIR"][0, 0] == LIMIT_DB  # none of the error is explained by the rest


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 100.0), st.integers(1, 4_000), st.integers(0, 5))
def test_scale_of_the_estimate_and_size_of_the_blocks_do_not_matter(factor, block, seed):
    references, estimates = noise(seed, n_samples=4_000)
    expected = scale_values(references, estimates, block=4_000)
    found = scale_values(references, factor * estimates, block=block)
    for name in ("SI-SDR", "SI-SIR", "SI-SAR"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def test_a_mean_does_not_matter():
    references, estimates = noise(2)
    expected, found = scale_values(references, estimates), scale_values(references + 3.0, estimates - 2.0)
    np.testing.assert_allclose(found["SI-SDR"], expected["SI-SDR"], atol=1e-6)


def test_a_silent_reference_leaves_only_its_source_out():
    references, estimates = noise(3)
    found = scale_values(references * np.array([0.0, 1.0])[:, None, None], estimates)
    for name in SCALE_METRICS:
        assert np.isnan(found[name][:, 0]).all(), name
    for name in ("SI-SDR", "SI-SAR", "SD-SDR", "SNR", "SRR"):
        assert np.isfinite(found[name][:, 1]).all(), name
    # With no other source there is no interference, and the mixture cannot be improved on.
    for name in ("SI-SIR", "SI-SDRi", "SNRi"):
        assert np.isnan(found[name][:, 1]).all(), name


def test_dither_in_a_reference_counts_as_silence():
    references, estimates = noise(3)
    found = scale_values(references * np.array([1e-5, 1.0])[:, None, None], estimates)
    assert np.isnan(found["SI-SDR"][:, 0]).all()


def test_a_silent_estimate_gets_the_lowest_values():
    references, estimates = noise(4)
    found = scale_values(references, np.stack([0 * estimates[0], references.sum(axis=0)]))
    for name in ("SI-SDR", "SI-SIR", "SI-SAR", "SD-SDR", "SRR"):
        assert (found[name][:, 0] == -LIMIT_DB).all(), name
    np.testing.assert_allclose(found["SNR"][:, 0], 0.0, atol=1e-9)


def test_a_perfect_estimate_gets_the_highest_values():
    references, _ = noise(5)
    found = scale_values(references, references)
    for name in ("SI-SDR", "SI-SIR", "SI-SAR", "SD-SDR", "SNR", "SRR"):
        assert (found[name] == LIMIT_DB).all(), name


def by_definition(reference, estimate):
    """SI-SDR as torchmetrics computes it with zero_mean=True, in double precision, without its epsilons."""
    s, e = reference - reference.mean(), estimate - estimate.mean()
    target = (e @ s) / (s @ s) * s
    return 10 * np.log10((target @ target) / ((target - e) @ (target - e)))


@pytest.mark.parametrize(
    "name, make, si_sdr, snr, sd_sdr",
    [
        ("perfect", lambda s: s, LIMIT_DB, LIMIT_DB, LIMIT_DB),
        ("inverted", lambda s: -s, LIMIT_DB, 20 * np.log10(1 / 2), 20 * np.log10(1 / 2)),
        ("silent", lambda s: 0 * s, -LIMIT_DB, 0.0, -LIMIT_DB),
        ("constant", lambda s: 0 * s + np.float32(0.1), -LIMIT_DB, 0.0, -LIMIT_DB),
        ("large constant", lambda s: 0 * s + np.float32(1e4), -LIMIT_DB, 0.0, -LIMIT_DB),
    ],
)
@pytest.mark.parametrize("n_samples", [50, 100_000])
def test_degenerate_estimates_have_stated_values(name, make, si_sdr, snr, sd_sdr, n_samples):
    references = np.random.default_rng(0).standard_normal((2, 1, n_samples)).astype(np.float32)
    found = scale_values(references, np.stack([make(references[0]), references[1]]).astype(np.float32))
    for metric, expected in (("SI-SDR", si_sdr), ("SI-SAR", si_sdr), ("SNR", snr), ("SD-SDR", sd_sdr)):
        assert found[metric][0, 0] == pytest.approx(expected, abs=1e-6), metric


@pytest.mark.parametrize("constant", [0.1, 10.0])
@pytest.mark.parametrize("little", [1.0, 1e-3])
def test_a_constant_plus_a_little_scores_as_the_little(constant, little):
    """Means are taken out first, by the definition and in nussl; the reference may have one as well."""
    from vocal_extraction.compatibility import nussl

    references, estimates = noise(0, n_channels=1)
    shifted = references + 3.0, little * estimates + constant
    found = scale_values(*shifted)["SI-SDR"][0, 0]
    assert found == pytest.approx(by_definition(references[0, 0], estimates[0, 0]), abs=1e-6)
    signals = [[nussl.AudioSignal(audio_data_array=x.copy(), sample_rate=44_100) for x in stack] for stack in shifted]
    theirs = nussl.evaluation.BSSEvalScale(*signals, source_labels=["v", "b"]).evaluate()
    assert found == pytest.approx(theirs["v"]["SI-SDR"][0], abs=1e-4)


@pytest.mark.parametrize("gain", [10.0, 1e5, 1e8, 1e15])
def test_a_loud_estimate_is_far_from_its_source(gain):
    """SD-SDR is the energy of the scaled source over that of the error, near 0 dB, however loud both are."""
    references, estimates = noise(0, n_channels=1)
    s, e = (x[0, 0] - x[0, 0].mean() for x in (references, gain * (references + 0.1 * estimates)))
    target = (e @ s) / (s @ s) * s
    expected = 10 * np.log10((target @ target) / ((s - e) @ (s - e)))
    found = scale_values(references, gain * (references + 0.1 * estimates))["SD-SDR"][0, 0]
    assert found == pytest.approx(expected, abs=1e-6)


def test_what_is_as_weak_as_the_rounding_of_samples_is_not_perfect():
    """0.3 and a ten-millionth of the source: in 32 bits, a rounding error as strong as the sound."""
    references, _ = noise(0, n_channels=1)
    estimates = (0.3 + 1e-7 * references / references.std()).astype(np.float32)
    assert scale_values(references, estimates)["SI-SDR"][0, 0] < 30


def test_an_impulse_scores_by_the_definition():
    references, estimates = noise(0, n_channels=1)
    estimates[0] = 0.0
    estimates[0, 0, 100] = 1.0
    found = scale_values(references, estimates)["SI-SDR"][0, 0]
    assert found == pytest.approx(by_definition(references[0, 0], estimates[0, 0]), abs=1e-6)


@pytest.mark.parametrize("references", [np.ones((2, 1, 1)), np.full((2, 1, 1_000), 0.1), np.zeros((2, 1, 100))])
def test_one_sample_or_a_constant_is_a_silent_reference(references):
    """With its mean taken out nothing is left of it, so nothing has a value."""
    found = scale_values(references.astype(np.float32), references.astype(np.float32))
    assert all(np.isnan(values).all() for values in found.values())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_degenerate_values_beside_mir_eval():
    """mir_eval's BSSEval v3 allows filters of 512 taps: a perfect and an inverted estimate are perfect there, too."""
    import mir_eval

    references, estimates = noise(0, n_channels=1)
    for factor in (1.0, -1.0):
        sdr = mir_eval.separation.bss_eval_sources(references[:, 0], factor * references[:, 0], False)[0]
        assert (sdr > LIMIT_DB).all()
        assert (scale_values(references, factor * references)["SI-SDR"] == LIMIT_DB).all()
    with pytest.raises(ValueError, match="silent"):
        mir_eval.separation.bss_eval_sources(references[:, 0], 0 * estimates[:, 0], False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["noise", "silence", "constant", "same", "tiny", "huge"]), min_size=4, max_size=4))
def test_no_signals_give_infinite_scale_metrics(kinds):
    rng = np.random.default_rng(0)
    same = rng.standard_normal(500)
    make = {
        "noise": lambda: rng.standard_normal(500),
        "silence": lambda: np.zeros(500),
        "constant": lambda: np.ones(500),
        "same": lambda: same,
        "tiny": lambda: 1e-20 * rng.standard_normal(500),
        "huge": lambda: 1e20 * rng.standard_normal(500),
    }
    signals = np.stack([make[kind]() for kind in kinds])[:, None]
    for name, values in scale_values(signals[:2], signals[2:]).items():
        assert not np.isinf(values).any(), name
        assert (np.abs(values[np.isfinite(values)]) <= 2 * LIMIT_DB).all(), name


@pytest.mark.parametrize("n_samples", [25_000, 3_000], ids=["frames-and-a-rest", "less-than-a-frame"])
def test_bsseval_agrees_with_museval(n_samples):
    references, estimates = noise(6, n_samples=n_samples)
    expected, found = museval_values(references, estimates, 8_000), bsseval_values(references, estimates, 8_000)
    for name in BSSEVAL_METRICS:
        np.testing.assert_allclose(found[name], expected[name], atol=SAME_FITS_DB, err_msg=name)


@pytest.fixture
def all_taps(monkeypatch):
    """Filters of BSSEval's own length, for tests of the figures themselves."""
    monkeypatch.setattr(bsseval_v4, "N_TAPS", 512)


def test_bsseval_agrees_with_museval_on_music(demo_dataset, all_taps):
    """Songs are harder than noise: their spectra are steep, so the fits are ill-conditioned."""
    from vocal_extraction.evaluation.systems import Sources
    from vocal_extraction.tracks import find_tracks

    song = Sources(("vocals",), "bass+drums+other").of(find_tracks(demo_dataset, subset="test", limit=1)[0])
    references = song.read(0, 3 * song.sample_rate).astype(float)
    rng = np.random.default_rng(0)
    leak = 0.7 * references[0] + 0.2 * references[1] + 1e-3 * rng.standard_normal(references[0].shape)
    estimates = np.stack([leak, references.sum(axis=0) - leak])
    expected = museval_values(references, estimates, song.sample_rate)
    found = bsseval_values(references, estimates, song.sample_rate, block=50_000)
    for name in BSSEVAL_METRICS:
        np.testing.assert_allclose(found[name], expected[name], atol=SAME_FITS_DB, err_msg=name)


def test_bsseval_of_seeded_noise_stays_what_it_was(all_taps):
    found = bsseval_values(*noise(7, n_samples=16_000), 8_000)
    vocals = {name: round(float(np.median(values[0])), 4) for name, values in found.items()}
    assert vocals == {"SDR": 6.1852, "ISR": 12.8239, "SIR": 11.3603, "SAR": 6.9877}


def test_bsseval_of_two_channels_that_are_one():
    """The fit is singular; the projections are those of the one channel all the same."""
    references, estimates = noise(8, n_channels=1, n_samples=8_000)
    alone = bsseval_values(references, estimates, 4_000)
    twice = bsseval_values(*(np.repeat(x, 2, axis=1) for x in (references, estimates)), 4_000)
    for name in BSSEVAL_METRICS:
        np.testing.assert_allclose(twice[name], alone[name], atol=SAME_FITS_DB, err_msg=name)


def test_bsseval_of_a_source_on_one_side():
    references, estimates = noise(8, n_samples=8_000)
    references[0, 1] = 0.0
    found = bsseval_values(references, estimates, 4_000)
    assert all(np.isfinite(values).all() for values in found.values())


def test_bsseval_skips_frames_as_museval_does():
    """A silent reference or estimate in a frame costs all sources that frame."""
    references, estimates = noise(9, n_samples=16_000)
    references[1, :, :4_000] = 0.0
    estimates[0, :, 8_000:12_000] = 0.0
    expected, found = museval_values(references, estimates, 4_000), bsseval_values(references, estimates, 4_000)
    for name in BSSEVAL_METRICS:
        assert np.isnan(found[name]).tolist() == [[True, False, True, False]] * 2
        np.testing.assert_allclose(found[name], expected[name], atol=SAME_FITS_DB, err_msg=name)


def test_bsseval_of_a_silent_reference_leaves_only_its_source_out():
    """museval refuses such a song."""
    references, estimates = noise(10, n_samples=8_000)
    references[0] = 0.0
    found = bsseval_values(references, estimates, 4_000)
    assert np.isnan(found["SDR"][0]).all()
    assert np.isfinite(found["SDR"][1]).all()
    assert np.isnan(found["SIR"][1]).all()  # no other source sounds


def test_every_system_is_scored_for_itself():
    references, estimates = noise(11, n_samples=8_000)
    other = estimates * 0.5
    bsseval = BssEvalV4(4_000)
    bsseval.add(references, np.stack([estimates, other]))
    together = bsseval.values()
    for k, one in enumerate((estimates, other)):
        alone = bsseval_values(references, one, 4_000)
        for name in BSSEVAL_METRICS:
            np.testing.assert_allclose(together[name][k], alone[name], atol=1e-9, err_msg=name)
