"""Rendering against signals with a known answer, and against scaper, pyloudnorm and the annotation's definitions."""

import numpy as np
import pytest
import soundfile

from vocal_extraction.compatibility import scaper
from vocal_extraction.rendering import RenderingError, duration_s_of, songs_of
from vocal_extraction.rendering.events import fade, render_events
from vocal_extraction.rendering.loudness import loudness_lufs
from vocal_extraction.rendering.stems import read_excerpt
from vocal_extraction.rendering.stretching import change_pitch_and_tempo

RATE = 44_100


def tone(frequency_hz, duration_s=2.0, rate=RATE):
    seconds = np.arange(int(duration_s * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * frequency_hz * seconds)).astype(np.float32)


def clicks_in_noise(duration_s=3.0, seed=0):
    """Noise with a click every tenth of a second, so that any shift between two copies shows."""
    signal = 0.05 * np.random.default_rng(seed).standard_normal(int(duration_s * RATE))
    signal[:: RATE // 10] += 0.9
    return signal.astype(np.float32)


def frequency_of(audio, rate=RATE):
    """Return the strongest frequency in hertz, between bins by a parabola through the logarithms of three."""
    spectrum = np.log(np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) + 1e-12)
    peak = int(np.argmax(spectrum))
    left, middle, right = spectrum[peak - 1 : peak + 2]
    return (peak + 0.5 * (left - right) / (left - 2 * middle + right)) * rate / len(audio)


def lag_between(one, other, largest=2_000):
    """Return by how many samples `other` comes later, from the peak of their correlation."""
    n_fft = 2 * len(one)
    correlation = np.fft.irfft(np.fft.rfft(other, n_fft) * np.conj(np.fft.rfft(one, n_fft)))
    near = np.concatenate((correlation[-largest:], correlation[:largest]))
    return int(np.argmax(near)) - largest


@pytest.mark.parametrize("semitones, stretch", [(2, 1), (0, 0.8), (1.3, 0.87), (-1.7, 1.13)])
def test_tone_has_the_pitch_and_the_length_asked_for(semitones, stretch):
    audio = tone(440)
    n_wanted = round(len(audio) * stretch)
    changed = change_pitch_and_tempo(audio[None], semitones=semitones, n_wanted=n_wanted, sample_rate=RATE)
    assert changed.shape == (1, n_wanted)
    assert changed.dtype == np.float32
    semitones_found = 12 * np.log2(frequency_of(changed[0]) / 440)
    assert semitones_found == pytest.approx(semitones, abs=0.1)


@pytest.mark.parametrize("frequency_hz", [110, 440, 12_000])
def test_splices_of_a_tone_do_not_click(frequency_hz):
    """All but the tone's own line stays 45 dB below it: SoX's slow mode reaches 59 dB at 440 Hz, a click some 20."""
    audio = tone(frequency_hz, duration_s=4)
    changed = change_pitch_and_tempo(audio[None], semitones=1.3, n_wanted=round(len(audio) * 1.17), sample_rate=RATE)[0]
    middle = changed[RATE // 4 : -RATE // 4]
    power = np.abs(np.fft.rfft(middle * np.blackman(len(middle)))) ** 2
    hertz = np.fft.rfftfreq(len(middle), 1 / RATE)
    own = np.abs(hertz - frequency_hz * 2 ** (1.3 / 12)) < 15
    assert 10 * np.log10(power[own].sum() / power[~own].sum()) > 45


def test_a_step_in_time_is_found_where_the_stretch_puts_it():
    """A tone begins in silence: its onset moves with the stretch, give or take what one segment allows."""
    audio = np.concatenate((np.zeros(RATE, np.float32), tone(440, 1.0)))
    changed = change_pitch_and_tempo(audio[None], semitones=0, n_wanted=round(len(audio) * 1.2), sample_rate=RATE)[0]
    onset = int(np.argmax(np.abs(changed) > 0.1))
    assert onset == pytest.approx(1.2 * RATE, abs=0.082 * RATE * 0.2 / 2 + 0.012 * RATE)


def test_equal_channels_stay_equal_whatever_is_done_to_them():
    audio = clicks_in_noise()
    n_wanted = round(len(audio) * 0.9)
    both = change_pitch_and_tempo(np.stack([audio, audio]), semitones=1.5, n_wanted=n_wanted, sample_rate=RATE)
    np.testing.assert_array_equal(both[0], both[1])


def test_unlike_channels_stay_aligned():
    """The same clicks under other noise, at other levels: within 3 samples, as the issue asks."""
    one, other = clicks_in_noise(seed=1), 0.3 * clicks_in_noise(seed=2)
    changed = change_pitch_and_tempo(
        np.stack([one, other]), semitones=-1.5, n_wanted=round(len(one) * 1.15), sample_rate=RATE
    )
    assert abs(lag_between(*changed)) <= 3


def test_nothing_to_change_changes_nothing():
    audio = clicks_in_noise()[None]
    unchanged = change_pitch_and_tempo(audio, semitones=0.0, n_wanted=audio.shape[1], sample_rate=RATE)
    np.testing.assert_array_equal(unchanged, audio)


@pytest.mark.parametrize("n_samples", [0, 1, 50, 4_000, 4_500])
def test_excerpts_too_short_to_splice_get_their_length(n_samples):
    audio = np.ones((2, n_samples), np.float32)
    changed = change_pitch_and_tempo(audio, semitones=1.0, n_wanted=round(n_samples * 1.2), sample_rate=RATE)
    assert changed.shape == (2, round(n_samples * 1.2))
    assert np.isfinite(changed).all()


def test_silence_stays_silent():
    changed = change_pitch_and_tempo(np.zeros((1, RATE), np.float32), semitones=2, n_wanted=RATE // 2, sample_rate=RATE)
    assert not changed.any()


@pytest.mark.parametrize("rate, duration_s", [(44_100, 0.1), (44_100, 0.5), (48_000, 0.77), (22_050, 5.0)])
def test_loudness_equals_scapers(rate, duration_s):
    """Same filters, blocks and gates; the sums differ in the order of additions only."""
    rng = np.random.default_rng(3)
    n_samples = int(duration_s * rate)
    swell = np.linspace(0.01, 1, n_samples) ** 4  # quiet enough at first for both gates to close
    audio = (0.3 * swell * rng.standard_normal(n_samples)).astype(np.float32)
    expected = scaper.audio.get_integrated_lufs(audio[:, None].astype(np.float64), rate)
    assert loudness_lufs(audio, rate) == pytest.approx(expected, abs=1e-3)


def test_silence_and_no_samples_have_the_lowest_loudness():
    for audio in (0 * tone(1_000), 1e-6 * tone(1_000), np.zeros(0, np.float32)):
        assert loudness_lufs(audio, RATE) == -70


def test_fade_is_scapers():
    audio = np.ones((2, RATE), np.float32)
    fade(audio, n_in=441, n_out=882)
    for channel in audio:
        np.testing.assert_allclose(channel[:441], np.sin(np.linspace(0, np.pi / 2, 441)), atol=1e-6)
        np.testing.assert_allclose(channel[-882:], np.sin(np.linspace(np.pi / 2, 0, 882)), atol=1e-6)
    assert (audio[:, 441:-882] == 1).all()
    short = np.ones((1, 5), np.float32)
    fade(short, n_in=441, n_out=441)
    assert short[0, 0] == short[0, -1] == 0


@pytest.fixture
def stereo_file(tmp_path):
    path = tmp_path / "song.wav"
    ramp = np.arange(1_000, dtype=np.float32) / 1_000
    soundfile.write(path, np.stack([ramp, -0.5 * ramp], axis=1), RATE, subtype="FLOAT")
    return path, ramp


@pytest.mark.parametrize(
    "channel, factors",
    [
        ("left", [1]),
        ("right", [-0.5]),
        ("mid", [0.25]),
        ("side", [0.75]),
        ("stereo", [1, -0.5]),
        ("swapped", [-0.5, 1]),
        ("doubled", [0.25, 0.25]),
    ],
)
def test_excerpt_is_read_where_and_as_asked(stereo_file, channel, factors):
    path, ramp = stereo_file
    excerpt = read_excerpt(path, start_s=100 / RATE, duration_s=50 / RATE, sample_rate=RATE, channel=channel)
    np.testing.assert_allclose(excerpt, [factor * ramp[100:150] for factor in factors], atol=1e-7)


def test_excerpt_takes_the_samples_that_scaper_takes(stereo_file):
    path, ramp = stereo_file
    start_s, duration_s = 0.00123, 0.00771
    first, last = int(start_s * RATE), int((start_s + duration_s) * RATE)
    excerpt = read_excerpt(path, start_s=start_s, duration_s=duration_s, sample_rate=RATE)
    np.testing.assert_allclose(excerpt, 0.25 * ramp[None, first:last], atol=1e-7)


def test_excerpt_ends_where_the_file_does(stereo_file):
    path, _ = stereo_file
    left_over = read_excerpt(path, start_s=0.02, duration_s=1.0, sample_rate=RATE)
    assert left_over.shape == (1, 1_000 - int(0.02 * RATE))
    assert read_excerpt(path, start_s=5.0, duration_s=1.0, sample_rate=RATE).shape == (1, 0)


@pytest.mark.parametrize("channel, n_channels", [("left", 1), ("mid", 1), ("side", 1), ("stereo", 2), ("swapped", 2)])
def test_a_mono_file_has_only_its_one_channel(tmp_path, channel, n_channels):
    soundfile.write(tmp_path / "mono.wav", np.full(100, 0.5, np.float32), RATE, subtype="FLOAT")
    excerpt = read_excerpt(tmp_path / "mono.wav", start_s=0, duration_s=1, sample_rate=RATE, channel=channel)
    np.testing.assert_array_equal(excerpt, np.full((n_channels, 100), 0.5, np.float32))


def test_stems_that_cannot_be_read_are_named(tmp_path, stereo_file):
    path, _ = stereo_file
    (tmp_path / "noise.wav").write_bytes(b"not audio at all")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), RATE)
    for broken in ("noise.wav", "missing.wav"):
        with pytest.raises(RenderingError, match=f"{broken}.*Prepare"):
            read_excerpt(tmp_path / broken, start_s=0, duration_s=1, sample_rate=RATE)
        with pytest.raises(RenderingError, match=broken):
            duration_s_of(tmp_path / broken)
    with pytest.raises(RenderingError, match=r"empty\.wav is empty"):
        duration_s_of(tmp_path / "empty.wav")
    with pytest.raises(RenderingError, match="44100 Hz, but 48000 Hz"):
        read_excerpt(path, start_s=0, duration_s=1, sample_rate=48_000)


def test_songs_are_listed_in_order(tmp_path):
    for name in ("b.wav", "a.wav", "c.txt"):
        (tmp_path / name).touch()
    assert songs_of(tmp_path) == [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]


def test_channels_of_a_file_of_more_than_two_are_averaged(tmp_path):
    soundfile.write(tmp_path / "song.wav", np.tile([0.3, 0.6, -0.3], (100, 1)), RATE, subtype="FLOAT")
    excerpt = read_excerpt(tmp_path / "song.wav", start_s=0, duration_s=1, sample_rate=RATE)
    np.testing.assert_allclose(excerpt, np.full((1, 100), 0.2), atol=1e-7)


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_a_folder_without_songs_is_named(tmp_path, folder):
    with pytest.raises(RenderingError, match="No wav files in"):
        songs_of(tmp_path / folder)


def test_siblings_of_unequal_length_are_rendered_together(tmp_path):
    """Decoders may disagree by a few samples at the end of a song."""
    for name, n_samples in (("one", 44_100), ("other", 44_000)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(n_samples, 0.1, np.float32), RATE, subtype="FLOAT")
    events = [
        {
            "source_file": str(tmp_path / f"{name}.wav"),
            "source_time": 0.0,
            "event_duration": 1.0,
            "pitch_shift": None,
            "time_stretch": None,
        }
        for name in ("one", "other")
    ]
    rendered = render_events(events, ["mid", "mid"], sample_rate=RATE, together=True)
    assert [audio.shape for audio in rendered] == [(1, 44_100)] * 2
    assert rendered[1][0, :44_000].all()
    assert not rendered[1][0, 44_000:].any()
