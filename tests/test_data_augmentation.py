"""Mixtures against their own annotation: what the JAMS says is measured in the audio, by other means than rendering."""

import dataclasses
import warnings

import numpy as np
import pyloudnorm
import pytest
import soundfile

from vocal_extraction.compatibility import scaper
from vocal_extraction.data_augmentation import (
    create_mix_closure,
    event_template,
    generate_coherent_mixture,
    generate_incoherent_mixture,
)
from vocal_extraction.errors import SettingsError
from vocal_extraction.presets import PRESETS
from vocal_extraction.rendering import RenderingError
from vocal_extraction.settings import STEMS, MixingSettings, SignalSettings
from vocal_extraction.tracks import TrackError

RATE = 44_100
HOP_SAMPLES = SignalSettings().hop_length
PLAIN = MixingSettings(pitch_shift_semitones=(0, 0), time_stretch=(1, 1))
GENERATORS = [generate_coherent_mixture, generate_incoherent_mixture]


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    """Scaper warns where it has to repair what was drawn; nothing here may need that."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # jams validates by means that jsonschema will give up
        yield


def write_stems(folder, signals, song="song"):
    """Write (n_samples,) signals by stem in the prepared layout below `folder`; return foreground and background."""
    for stem, signal in signals.items():
        path = folder / "foreground" / stem / f"{song}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([signal, signal], axis=1), RATE, subtype="FLOAT")
    (folder / "background").mkdir(exist_ok=True)
    return folder / "foreground", folder / "background"


def noise(duration_s, seed=0, level=0.1):
    return (level * np.random.default_rng(seed).standard_normal(int(duration_s * RATE))).astype(np.float32)


def folders(demo_dataset, subset="train"):
    return demo_dataset / subset / "foreground", demo_dataset / subset / "background"


def mixture_of(generate, where, seed, *, mixing=None, template=None):
    """Generate a mixture from (foreground, background), with the template of its settings unless another is given."""
    foreground, background = where
    mixing = mixing or MixingSettings()
    return generate(foreground, background, template or event_template(mixing), seed, mixing=mixing)


def events_of(jam):
    return jam.annotations.search(namespace="scaper")[0].data


def facts_of(jam):
    return jam.annotations.search(namespace="scaper")[0].sandbox.scaper


@pytest.mark.parametrize("generate", GENERATORS)
def test_returns_what_the_specification_says(demo_dataset, generate):
    mixture, jam, annotation_list, stems = mixture_of(generate, folders(demo_dataset), 7)
    assert mixture.shape == (5 * RATE, 1)
    assert mixture.dtype == np.float32
    assert [label for _, _, label in annotation_list] == list(STEMS)
    assert [stem.shape for stem in stems] == [mixture.shape] * 4
    assert [event.value["label"] for event in events_of(jam)] == list(STEMS)
    assert jam.validate()


@pytest.mark.parametrize("generate", GENERATORS)
@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_mixture_is_the_sum_of_its_stems(demo_dataset, generate, preset):
    """To two roundings of the largest value: the order of the additions is free."""
    template = event_template(preset.mixing, coherent=generate is generate_coherent_mixture)
    mixture, _, _, stems = mixture_of(generate, folders(demo_dataset), 3, mixing=preset.mixing, template=template)
    np.testing.assert_allclose(np.sum(stems, axis=0), mixture, atol=2**-22)
    assert np.abs(mixture).max() > 1e-3


@pytest.mark.parametrize("generate", GENERATORS)
def test_the_seed_says_everything(demo_dataset, generate):
    def make(seed):
        return mixture_of(generate, folders(demo_dataset), seed)

    first, again, other = make(5), make(5), make(6)
    np.testing.assert_array_equal(first[0], again[0])
    assert [event.value for event in events_of(first[1])] == [event.value for event in events_of(again[1])]
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("seed", [-1, 2**32, "first"])
def test_a_seed_that_is_none_is_named(demo_dataset, seed):
    with pytest.raises(SettingsError, match=r"expected a whole number from 0 to 2\*\*32 - 1"):
        mixture_of(generate_coherent_mixture, folders(demo_dataset), seed)


@pytest.mark.parametrize("generate", GENERATORS)
def test_what_no_event_has_is_named(demo_dataset, generate):
    with pytest.raises(SettingsError, match=r"The template has pitch; an event has label, .*, pitch_shift, "):
        mixture_of(generate, folders(demo_dataset), 0, template={"pitch": ("const", 1.0)})


@pytest.mark.parametrize("generate", GENERATORS)
def test_a_template_without_pitch_and_stretch_has_none(demo_dataset, generate):
    _, jam, _, _ = mixture_of(generate, folders(demo_dataset), 0, template={"snr": ("const", 0.0)})
    for event in events_of(jam):
        assert (event.value["pitch_shift"], event.value["time_stretch"], event.value["snr"]) == (None, None, 0.0)


def test_values_lie_in_the_specified_ranges(demo_dataset):
    closure = create_mix_closure(demo_dataset, "train", mixing=MixingSettings(duration_s=1.0))
    drawn = [event.value for i in range(20) for event in events_of(closure.mixture(i)[1])]
    for name, low, high in (("pitch_shift", -2, 2), ("time_stretch", 0.8, 1.2), ("snr", -5, 5), ("source_time", 0, 7)):
        values = np.array([value[name] for value in drawn])
        assert low <= values.min() < values.max() <= high
        assert np.ptp(values) > 0.5 * (min(high, 6.0) - low), name


def test_coherent_stems_share_song_offset_pitch_and_stretch(demo_dataset):
    _, jam, _, _ = mixture_of(generate_coherent_mixture, folders(demo_dataset), 1)
    shared = [
        (
            event.value["source_file"].rpartition("/")[2],
            *(event.value[name] for name in ("source_time", "event_duration", "pitch_shift", "time_stretch")),
        )
        for event in events_of(jam)
    ]
    assert len(set(shared)) == 1


def test_incoherent_stems_are_drawn_one_by_one(demo_dataset):
    _, jam, _, _ = mixture_of(generate_incoherent_mixture, folders(demo_dataset), 1)
    assert len({event.value["pitch_shift"] for event in events_of(jam)}) == 4
    assert len({event.value["source_time"] for event in events_of(jam)}) == 4


def lag_between(one, other, largest=5_000):
    n_fft = 2 * len(one)
    correlation = np.fft.irfft(np.fft.rfft(other, n_fft) * np.conj(np.fft.rfft(one, n_fft)))
    return int(np.argmax(np.concatenate((correlation[-largest:], correlation[:largest])))) - largest


@pytest.mark.parametrize("mixing, most_samples", [(MixingSettings(), 3), (PLAIN, 0)], ids=["stretched", "plain"])
def test_coherent_stems_stay_aligned(tmp_path, mixing, most_samples):
    """Every stem holds the same clicks under noise of its own, so that each lag between two stems can be measured."""
    clicks = np.zeros(int(6.8 * RATE), np.float32)
    clicks[:: RATE // 7] = 0.9
    signals = {stem: clicks + noise(6.8, seed=i, level=0.01) for i, stem in enumerate(STEMS)}
    where = write_stems(tmp_path, signals)
    for seed in range(3):
        _, _, _, stems = mixture_of(generate_coherent_mixture, where, seed, mixing=mixing)
        lags = [lag_between(stems[0][:, 0], stem[:, 0]) for stem in stems[1:]]
        assert max(map(abs, lags)) <= most_samples


def test_plain_coherent_stems_are_their_excerpts(tmp_path):
    """Without pitch and stretch each stem is the file from the annotated offset on, scaled, to the sample."""
    signals = {stem: noise(6.8, seed=i) for i, stem in enumerate(STEMS)}
    where = write_stems(tmp_path, signals)
    _, jam, _, stems = mixture_of(generate_coherent_mixture, where, 4, mixing=PLAIN)
    start = int(events_of(jam)[0].value["source_time"] * RATE)
    inner = slice(441, 5 * RATE - 441)  # between the fades
    for name, stem in zip(STEMS, stems, strict=True):
        excerpt = signals[name][start : start + 5 * RATE][inner]
        found = stem[inner, 0]
        gain = (found @ excerpt) / (excerpt @ excerpt)
        np.testing.assert_allclose(found, gain * excerpt, atol=1e-5)


def frequency_of(audio):
    spectrum = np.log(np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) + 1e-12)
    peak = int(np.argmax(spectrum))
    left, middle, right = spectrum[peak - 1 : peak + 2]
    return (peak + 0.5 * (left - right) / (left - 2 * middle + right)) * RATE / len(audio)


@pytest.mark.parametrize("generate", GENERATORS)
def test_tones_come_out_as_the_annotation_says(tmp_path, generate):
    """Within 0.1 semitone, and for a stem shorter than the mixture, over within one hop of the annotated end."""
    hertz = dict(zip(STEMS, (110.0, 440.0, 880.0, 1_760.0), strict=True))
    seconds = np.arange(3 * RATE) / RATE
    tones = {stem: (0.5 * np.sin(2 * np.pi * f * seconds)).astype(np.float32) for stem, f in hertz.items()}
    where = write_stems(tmp_path, tones)
    for seed in range(3):
        _, jam, annotation_list, stems = mixture_of(generate, where, seed)
        for event, (onset_s, end_s, label), stem in zip(events_of(jam), annotation_list, stems, strict=True):
            sounding = np.flatnonzero(np.abs(stem[:, 0]) > 1e-6)
            assert sounding[0] == pytest.approx(onset_s * RATE, abs=HOP_SAMPLES)
            assert sounding[-1] == pytest.approx(end_s * RATE, abs=HOP_SAMPLES)
            assert end_s == pytest.approx(3 * event.value["time_stretch"], abs=1e-6)
            semitones = 12 * np.log2(frequency_of(stem[sounding[0] : sounding[-1], 0]) / hertz[label])
            assert semitones == pytest.approx(event.value["pitch_shift"], abs=0.1)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_snr_is_what_the_annotation_says(demo_dataset, preset):
    """Measured by pyloudnorm on what comes out, the overall gain taken off: 0.1 dB, for excerpts above -60 LUFS.

    The annotation says the loudness before a low-pass of the mixture.
    """
    mixing = dataclasses.replace(preset.mixing, band_limits_hz=())
    closure = create_mix_closure(demo_dataset, "train", mixing=mixing)
    meter, errors_db = pyloudnorm.Meter(RATE), []
    for index in range(5):
        _, jam, _, stems = closure.mixture(index)
        facts = facts_of(jam)
        for event, stem in zip(events_of(jam), stems, strict=True):
            lufs = meter.integrated_loudness(stem.astype(np.float64))
            snr_db = lufs - facts.ref_db - 20 * np.log10(facts.peak_normalization_scale_factor)
            if event.value["snr"] > -40 and lufs > -60:
                errors_db.append(abs(snr_db - event.value["snr"]))
    assert len(errors_db) > 10
    # Of a few drum hits, a block near the gate of the measure counts before the pitch is shifted and not after it.
    assert sorted(errors_db)[-2] < 0.1
    assert max(errors_db) < 1.0


def test_near_silence_is_not_made_loud(tmp_path):
    """Scaper would lift noise at -90 LUFS to -90 + 55 dB; it stays below the level that was drawn."""
    signals = {stem: noise(6.8, seed=i) for i, stem in enumerate(STEMS)}
    signals["vocals"] *= 1e-4
    where = write_stems(tmp_path, signals)
    _, _, _, stems = mixture_of(generate_coherent_mixture, where, 0, mixing=PLAIN)
    assert np.abs(stems[3]).max() < 0.03 * np.abs(stems[0]).max()


def test_silent_stem_stays_silent(tmp_path):
    signals = {stem: noise(6.8, seed=i) for i, stem in enumerate(STEMS)}
    signals["drums"] *= 0
    where = write_stems(tmp_path, signals)
    _, _, _, stems = mixture_of(generate_coherent_mixture, where, 0)
    assert not stems[1].any()
    assert stems[3].any()


def test_a_parent_folder_called_like_a_stem_does_no_harm(tmp_path):
    signals = {stem: noise(6.8, seed=i) for i, stem in enumerate(STEMS)}
    where = write_stems(tmp_path / "vocals-project" / "bass" / "vocals", signals)
    _, jam, _, stems = mixture_of(generate_coherent_mixture, where, 0)
    assert [event.value["source_file"].split("/")[-2] for event in events_of(jam)] == list(STEMS)
    assert np.abs(stems[0] - stems[3]).max() > 0.01  # bass is not the vocals again


@pytest.mark.parametrize("generate", GENERATORS)
@pytest.mark.parametrize("stretch", [0.8, 1.2])
def test_what_would_run_off_a_stem_of_6_8_s_fills_the_mixture(tmp_path, generate, stretch):
    """At 0.8 the excerpt takes 6.25 s of 6.8, so that offsets of 0 to 7 s have to be drawn where it fits."""
    mixing = MixingSettings(time_stretch=(stretch, stretch))
    where = write_stems(tmp_path, {stem: noise(6.8, seed=i) for i, stem in enumerate(STEMS)})
    offsets_s = set()
    for seed in range(4):
        _, jam, _, stems = mixture_of(generate, where, seed, mixing=mixing)
        for event, stem in zip(events_of(jam), stems, strict=True):
            value = event.value
            assert event.duration == pytest.approx(5.0, abs=1e-9)
            assert value["source_time"] + value["event_duration"] <= 6.8
            assert np.abs(stem[-4_410:-882]).max() > 0
            offsets_s.add(value["source_time"])
    assert len(offsets_s) > 1


@pytest.mark.parametrize("generate", GENERATORS)
def test_stems_shorter_than_the_mixture_fade_out_where_they_end(tmp_path, generate):
    where = write_stems(tmp_path, {stem: noise(2.0, seed=i) for i, stem in enumerate(STEMS)})
    _, jam, _, stems = mixture_of(generate, where, 0, mixing=PLAIN)
    for event, stem in zip(events_of(jam), stems, strict=True):
        end = round(event.duration * RATE)
        assert event.duration == pytest.approx(2.0, abs=1e-6)
        assert not stem[end:].any()
        assert np.abs(stem[end - 20 : end]).max() < 0.1 * np.abs(stem[:end]).max()  # the fade's last 20 of 441 samples


def test_siblings_of_unequal_length_fit_the_shortest(tmp_path):
    signals = {stem: noise(6.8, seed=i) for i, stem in enumerate(STEMS)}
    signals["bass"] = signals["bass"][: int(6.0 * RATE)]
    where = write_stems(tmp_path, signals)
    for seed in range(4):
        _, jam, _, _ = mixture_of(generate_coherent_mixture, where, seed, mixing=PLAIN)
        assert events_of(jam)[0].value["source_time"] <= 1.0


@pytest.mark.parametrize("generate", GENERATORS)
def test_template_places_events(demo_dataset, generate):
    """A template of one's own: events of one second from second two on, offsets by another distribution."""
    template = {
        **event_template(MixingSettings()),
        "event_time": ("const", 2.0),
        "event_duration": ("const", 1.0),
        "source_time": ("truncnorm", 3.0, 1.0, 0.0, 9.0),
    }
    _, _, annotation_list, stems = mixture_of(generate, folders(demo_dataset), 2, template=template)
    for (onset_s, end_s, _), stem in zip(annotation_list, stems, strict=True):
        assert (onset_s, end_s) == (2.0, pytest.approx(3.0, abs=1e-6))
        assert not stem[: 2 * RATE].any()
        assert not stem[round(end_s * RATE) + 1 :].any()


def test_event_that_would_end_after_the_mixture_is_shortened(demo_dataset):
    template = {**event_template(PLAIN), "event_time": ("const", 4.5), "pitch_shift": None, "time_stretch": None}
    _, _, annotation_list, _ = mixture_of(
        generate_incoherent_mixture, folders(demo_dataset), 2, mixing=PLAIN, template=template
    )
    assert [end_s for _, end_s, _ in annotation_list] == pytest.approx([5.0] * 4)


def test_loud_mixtures_do_not_clip(tmp_path):
    """A sine at -3 LUFS for each stem: the sum is brought down to full scale, and the annotation says by how much."""
    seconds = np.arange(int(6.8 * RATE)) / RATE
    loud = np.sin(2 * np.pi * 997 * seconds).astype(np.float32)
    mixing = MixingSettings(ref_db=-3.0, pitch_shift_semitones=(0, 0), time_stretch=(1, 1), snr_db=(0, 0))
    where = write_stems(tmp_path, dict.fromkeys(STEMS, loud))
    mixture, jam, _, _ = mixture_of(generate_coherent_mixture, where, 0, mixing=mixing)
    assert np.abs(mixture).max() == pytest.approx(1.0, abs=1e-5)
    assert facts_of(jam).peak_normalization_scale_factor == pytest.approx(1 / 4, rel=0.05)


def test_annotation_names_channels_and_polarities(demo_dataset):
    mixing = PRESETS["classic"].mixing
    closure = create_mix_closure(demo_dataset, "train", mixing=mixing)
    coherent = [facts_of(closure.mixture(i)[1]) for i in range(6)]
    assert all(set(facts.channels) <= {"left", "right", "mid", "side"} for facts in coherent)
    assert all(set(facts.polarities) <= {-1.0, 1.0} for facts in coherent)
    assert len({tuple(facts.polarities) for facts in coherent}) > 1


def test_events_are_drawn_as_scaper_draws_them(demo_dataset):
    """The same events, added to a scaper of the same seed by hand, instantiate to the same values."""
    _, jam, annotation_list, _ = mixture_of(generate_coherent_mixture, folders(demo_dataset), 9)
    drawer = scaper.Scaper(5.0, *map(str, folders(demo_dataset)), random_state=0)
    for event in events_of(jam):
        constants = {name: ("const", value) for name, value in event.value.items() if name != "role"}
        drawer.add_event(**constants)
    _, again, annotation_again, _ = drawer.generate(no_audio=True)
    assert [event.value for event in events_of(again)] == [event.value for event in events_of(jam)]
    assert annotation_again == annotation_list


@pytest.mark.parametrize("generate", GENERATORS)
def test_scaper_renders_the_same_from_the_annotation(demo_dataset, tmp_path, generate):
    """The saved JAMS, rendered by scaper itself, is our mixture: what is left over lies 30 dB below it.

    Not less, since scaper levels before it fades (0.2 dB would be 33 dB). Pitch and stretch are left out: SoX splices
    elsewhere.
    """
    mixture, jam, _, stems = mixture_of(generate, folders(demo_dataset), 11, mixing=PLAIN)
    jam.save(str(tmp_path / "mixture.jams"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scaper's own, while it renders
        rendered, _, _, rendered_stems = scaper.generate_from_jams(str(tmp_path / "mixture.jams"))
    for ours, theirs in zip([mixture, *stems], [rendered, *rendered_stems], strict=True):
        assert ours.shape == theirs.shape
        assert np.square(ours - theirs).mean() < 1e-3 * np.square(ours).mean()


@pytest.mark.parametrize("generate", GENERATORS)
@pytest.mark.parametrize("n_samples", [5 * RATE - 1, int(6.25 * RATE), int(2.5 * RATE)])
def test_songs_as_short_as_the_mixture_need_no_repair(tmp_path, generate, n_samples):
    """As long as the mixture less a sample, as long as it takes at the shortest stretch, and half of it: no warning."""
    where = write_stems(tmp_path, {stem: noise(7.0, seed=i)[:n_samples] for i, stem in enumerate(STEMS)})
    for mixing in (MixingSettings(), PLAIN, MixingSettings(time_stretch=(0.8, 0.8)), MixingSettings(offset_s=(2, 7))):
        _, jam, _, stems = mixture_of(generate, where, 1, mixing=mixing)
        for event, stem in zip(events_of(jam), stems, strict=True):
            value = event.value
            assert value["source_time"] >= 0
            assert value["source_time"] + value["event_duration"] <= n_samples / RATE
            end = round(event.duration * RATE)
            longest = min(5 * RATE, n_samples * value["time_stretch"])
            assert end == pytest.approx(longest, abs=1.5)
            assert np.abs(stem[end - 882 : end - 441]).max() > 0, "sounds until the fade at its end"


def test_missing_data_is_named(tmp_path, demo_dataset):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(TrackError, match="No songs in"):
        create_mix_closure(tmp_path, "train")
    with pytest.raises(TrackError, match="no subset 'training'; there are train, valid, test"):
        create_mix_closure(demo_dataset, "training")
    with pytest.raises(RenderingError, match=r"No wav files in .*foreground/bass.*Prepare"):
        generate_incoherent_mixture(tmp_path / "foreground", tmp_path, event_template(MixingSettings()), 0)
    foreground, _ = folders(demo_dataset)
    with pytest.raises(RenderingError, match=r"No folder .*nowhere"):
        generate_coherent_mixture(foreground, tmp_path / "nowhere", event_template(MixingSettings()), 0)


def test_a_missing_sibling_is_named(tmp_path):
    foreground, background = write_stems(tmp_path, {stem: noise(6.8, seed=i) for i, stem in enumerate(STEMS)})
    (foreground / "drums" / "song.wav").rename(foreground / "drums" / "another song.wav")
    with pytest.raises(RenderingError, match=r"drums/song\.wav"):
        generate_coherent_mixture(foreground, background, event_template(MixingSettings()), 0)


# ------------------------------------------------------------------------------------------------------------ stereo
def stereo_stems(folder):
    """Four stems of noise, each of its own in either channel; return foreground and background."""
    where = write_stems(folder, {stem: noise(6.8, seed=i) for i, stem in enumerate(STEMS)})
    for i, stem in enumerate(STEMS):
        both = np.stack([noise(6.8, seed=10 + i), 0.5 * noise(6.8, seed=20 + i)], axis=1)
        soundfile.write(where[0] / stem / "song.wav", both, RATE, subtype="FLOAT")
    return where


@pytest.mark.parametrize("generate", GENERATORS)
def test_stereo_stems_add_up_and_are_levelled_together(tmp_path, generate):
    """One gain a stem: the right channel stays half as loud as the left, or twice where they are swapped."""
    where, mixing = stereo_stems(tmp_path), MixingSettings(channels="stereo")
    seen = set()
    for seed in range(12) if generate is generate_coherent_mixture else range(4):
        mixture, jam, _, stems = mixture_of(generate, where, seed, mixing=mixing)
        assert mixture.shape == stems[0].shape == (5 * RATE, 2)
        np.testing.assert_allclose(np.sum(stems, axis=0), mixture, atol=2**-22)
        drawn = facts_of(jam).channels
        for stem, name in zip(stems, drawn, strict=True):
            left, right = np.sqrt(np.square(stem).mean(axis=0))
            wanted = {"stereo": 0.5, "swapped": 2.0, "doubled": 1.0}[name]
            assert right / left == pytest.approx(wanted, rel=0.05)  # two noises of 5 s
        seen.update(drawn)
        assert len(set(drawn)) == 1 or generate is generate_incoherent_mixture
    assert seen == {"stereo", "swapped", "doubled"}


def test_channels_stay_aligned_through_pitch_and_stretch(tmp_path):
    """Both channels of a stem share every splice: what sounds in both, under noise of their own, stays where it was."""
    common = noise(6.8)
    where = write_stems(tmp_path, dict.fromkeys(STEMS, common))
    for i, stem in enumerate(STEMS):
        both = np.stack([common + noise(6.8, seed=10 + i), common + noise(6.8, seed=20 + i)], axis=1)
        soundfile.write(where[0] / stem / "song.wav", both, RATE, subtype="FLOAT")
    for generate in GENERATORS:
        _, _, _, stems = mixture_of(generate, where, 3, mixing=MixingSettings(channels="stereo"))
        assert max(abs(lag_between(stem[:, 0], stem[:, 1])) for stem in stems) <= 3
