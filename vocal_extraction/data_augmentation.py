"""Mixtures that scaper draws: coherent ones (all stems from one song) and incoherent ones.

Scaper (Salamon et al., "Scaper: a library for soundscape synthesis and augmentation", WASPAA 2017) draws every event
from the template and describes it in a JAMS annotation; `rendering` makes it audible. What is drawn always fits: the
stretch comes first, then an excerpt of just the length that fills the mixture, then an offset that lies inside the
stem, so scaper never has to warn and repair.

A mixture depends on its seed alone, whoever makes it and in whatever order.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocal_extraction.compatibility import scaper
from vocal_extraction.rendering import (
    Audio,
    RenderingError,
    duration_s_of,
    fade,
    loudness_lufs,
    render_events,
    songs_of,
)
from vocal_extraction.settings import STEMS, MixingSettings, SignalSettings

Mixture = tuple[Audio, Any, list[list[Any]], list[Audio]]
"""(mixture_audio, mixture_jam, annotation_list, stem_audio_list), as scaper returns them."""

_CHANNELS = {
    "mid": ("mid",),
    "any": ("left", "right", "mid", "side"),
    "stereo": (*("stereo", "swapped") * 3, "doubled"),
}
"""What may be drawn of a song under each name in the settings; once in seven times a stereo song is a mono one."""

_QUIETEST_LUFS = -60.0
"""An excerpt below this is lifted as if it had this loudness: scaper would turn near-silence into loud noise."""


def event_template(mixing: MixingSettings, *, coherent: bool = False) -> dict[str, Any]:
    """Return scaper's event template for these settings.

    Parameters
    ----------
    mixing
        Ranges to draw from.
    coherent
        Whether it is for coherent mixtures, whose ``snr`` is a gain on the song's own balance where
        ``mixing.coherent_gain_db`` says so.

    Examples
    --------
    >>> event_template(MixingSettings())['time_stretch']
    ('uniform', 0.8, 1.2)
    """
    gain_db = mixing.coherent_gain_db
    snr_db = (-gain_db, gain_db) if coherent and gain_db is not None else mixing.snr_db
    return {
        "label": ("choose", []),
        "source_file": ("choose", []),
        "source_time": ("uniform", *mixing.offset_s),
        "event_time": ("const", 0.0),
        "event_duration": ("const", mixing.duration_s),
        "snr": ("uniform", *snr_db),
        "pitch_shift": ("uniform", *mixing.pitch_shift_semitones),
        "time_stretch": ("uniform", *mixing.time_stretch),
    }


def generate_coherent_mixture(
    foreground_dir: str | Path,
    background_dir: str | Path,
    template: dict[str, Any],
    seed: int,
    *,
    mixing: MixingSettings | None = None,
    sample_rate: int = SignalSettings.sample_rate,
) -> Mixture:
    """Generate a mixture whose stems come from the same song, at the same time, pitch and tempo.

    Parameters
    ----------
    foreground_dir
        Folder with one folder a stem: ``<foreground_dir>/<stem>/<song>.wav``.
    background_dir
        Folder of background sounds that scaper asks for; it may be empty.
    template
        Scaper's event parameters, as `event_template` makes them.
    seed
        Random seed; the same seed gives the same mixture.
    mixing
        Duration, reference loudness and the like; the specification's when left out.
    sample_rate
        Samples per second.

    Returns
    -------
    tuple
        ``(mixture_audio, mixture_jam, annotation_list, stem_audio_list)``: float32 of shape (n_samples, n_channels),
        one channel unless ``mixing.channels`` is 'stereo'; the JAMS that describes it; ``[onset_s, offset_s, label]``
        of every event; and the stems in alphabetical order, each of the mixture's shape. The mixture is the sum of its
        stems.

    Raises
    ------
    RenderingError
        If a folder or a stem is missing or cannot be read.
    """
    mixing = mixing or MixingSettings()
    drawer = _scaper(foreground_dir, background_dir, seed, mixing, sample_rate)
    song = Path(_draw(("choose", songs_of(Path(foreground_dir) / "vocals")), drawer.random_state))
    # .../<stem>/<song>.wav: only the stem's own folder changes, whatever the folders above are called.
    siblings = {stem: str(song.parent.parent / stem / song.name) for stem in STEMS}
    fitted = _fit(template, siblings.values(), mixing, drawer.random_state)
    # One draw for the song: from here on the offset is a constant too.
    fitted["source_time"] = ("const", _draw(fitted["source_time"], drawer.random_state))
    for stem, sibling in siblings.items():
        drawer.add_event(**{**fitted, "label": ("const", stem), "source_file": ("const", sibling)})
    return _render(drawer, mixing, coherent=True)


def generate_incoherent_mixture(
    foreground_dir: str | Path,
    background_dir: str | Path,
    template: dict[str, Any],
    seed: int,
    *,
    mixing: MixingSettings | None = None,
    sample_rate: int = SignalSettings.sample_rate,
) -> Mixture:
    """Generate a mixture whose stems come from songs, offsets, pitches and tempos drawn one by one.

    Parameters and returns are those of `generate_coherent_mixture`.
    """
    mixing = mixing or MixingSettings()
    drawer = _scaper(foreground_dir, background_dir, seed, mixing, sample_rate)
    for stem in STEMS:
        song = _draw(("choose", songs_of(Path(foreground_dir) / stem)), drawer.random_state)
        fitted = _fit(template, [song], mixing, drawer.random_state)
        drawer.add_event(**{**fitted, "label": ("const", stem), "source_file": ("const", song)})
    return _render(drawer, mixing, coherent=False)


def _scaper(
    foreground_dir: str | Path, background_dir: str | Path, seed: int, mixing: MixingSettings, sample_rate: int
) -> Any:
    """Set scaper up, after a look at the folders that says more than its own message."""
    for stem in STEMS:
        songs_of(Path(foreground_dir) / stem)
    if not Path(background_dir).is_dir():
        raise RenderingError(f"No folder {background_dir}, which scaper asks for; it may be empty. Make it.")
    drawer = scaper.Scaper(mixing.duration_s, str(foreground_dir), str(background_dir), random_state=seed)
    drawer.sr, drawer.ref_db, drawer.n_channels = sample_rate, mixing.ref_db, 2 if mixing.channels == "stereo" else 1
    return drawer


def _draw(distribution: tuple[Any, ...], random_state: np.random.RandomState) -> Any:
    """Draw one value from a distribution of scaper's."""
    return scaper.core._get_value_from_dist(distribution, random_state)


def _fit(
    template: dict[str, Any], source_files: Iterable[str], mixing: MixingSettings, random_state: np.random.RandomState
) -> dict[str, Any]:
    """Draw pitch, stretch and place, and narrow excerpt and offset to what these stems hold at that stretch."""
    source_s = min(map(duration_s_of, source_files))
    pitch = None if template["pitch_shift"] is None else float(_draw(template["pitch_shift"], random_state))
    stretch = None if template["time_stretch"] is None else float(_draw(template["time_stretch"], random_state))
    if mixing.stretch_follows_pitch and pitch is not None:
        stretch = 2 ** (-pitch / 12)
    start_s = min(max(float(_draw(template["event_time"], random_state)), 0.0), mixing.duration_s)
    wanted_s = min(float(_draw(template["event_duration"], random_state)), mixing.duration_s - start_s)
    event_s = min(wanted_s / (stretch or 1.0), source_s)
    while event_s * (stretch or 1.0) + start_s > mixing.duration_s:
        event_s = float(np.nextafter(event_s, 0.0))  # rounding alone would make scaper trim and warn
    # A microsecond less keeps rounding from pushing the event past the end of the stem.
    latest_s = max(source_s - event_s - 1e-6, 0.0)
    offset = template["source_time"]
    if offset[0] == "uniform" and offset[1] < min(offset[2], latest_s):
        offset = ("uniform", offset[1], min(offset[2], latest_s))
    else:
        offset = ("const", min(max(float(_draw(offset, random_state)), 0.0), latest_s))
    return {
        **template,
        "pitch_shift": None if pitch is None else ("const", pitch),
        "time_stretch": None if stretch is None else ("const", stretch),
        "event_time": ("const", start_s),
        "event_duration": ("const", event_s),
        "source_time": offset,
    }


def _render(drawer: Any, mixing: MixingSettings, *, coherent: bool) -> Mixture:
    """Instantiate what scaper holds, render it and complete the annotation."""
    _, jam, annotation_list, _ = drawer.generate(no_audio=True, fix_clipping=True)
    annotation = jam.annotations.search(namespace="scaper")[0]
    events = [event.value for event in annotation.data]
    n_draws = 1 if coherent else len(events)
    channels = [_draw_channel(mixing, drawer.random_state) for _ in range(n_draws)] * (len(events) // n_draws)
    rendered = render_events(events, channels, sample_rate=drawer.sr, together=coherent)
    for audio in rendered:
        # Before the loudness is measured, not after as in scaper: a drum that is faded away may be 0.2 dB of it.
        fade(audio, n_in=int(drawer.fade_in_len * drawer.sr), n_out=int(drawer.fade_out_len * drawer.sr))
    keeps_balance = coherent and mixing.coherent_gain_db is not None
    gains = _gains(rendered, events, drawer, keeps_balance=keeps_balance)
    polarities = np.ones(len(events), dtype=np.float32)
    if mixing.polarity_flips and not coherent:
        polarities = drawer.random_state.choice([-1.0, 1.0], size=len(events)).astype(np.float32)
    stems = _place(rendered, events, gains * polarities, drawer)
    mixture = stems.sum(axis=0)
    scale = _overall_scale(mixture, mixing, drawer.random_state)
    if scale != 1.0:
        stems *= np.float32(scale)
        mixture = stems.sum(axis=0)
    facts = annotation.sandbox.scaper
    facts.no_audio = False
    facts.peak_normalization_scale_factor = scale
    facts.ref_db_change = float(20 * np.log10(scale))
    facts.ref_db_generated = drawer.ref_db + facts.ref_db_change
    facts.channels, facts.polarities = channels, polarities.tolist()
    return mixture.T, jam, annotation_list, [stem.T for stem in stems]


def _draw_channel(mixing: MixingSettings, random_state: np.random.RandomState) -> str:
    names = _CHANNELS[mixing.channels]
    return names[random_state.randint(len(names))] if len(names) > 1 else names[0]


def _gains(
    rendered: Sequence[Audio], events: list[dict[str, Any]], drawer: Any, *, keeps_balance: bool
) -> NDArray[np.float32]:
    """Return each event's gain as a factor, and make the annotation's SNR what will be heard.

    A levelled event gets ``ref_db + snr``. One that keeps the song's balance is moved by ``snr``, and the annotation
    then says the loudness that results. Silence stays silence: scaper would lift its noise by up to 55 dB.
    """
    lufs = np.array([loudness_lufs(audio, drawer.sr) for audio in rendered])
    snr_db = np.array([event["snr"] for event in events])
    if keeps_balance:
        gain_db = snr_db
        for event, heard_db in zip(events, lufs + gain_db - drawer.ref_db, strict=True):
            event["snr"] = float(heard_db)
    else:
        # No event is lifted further than from _QUIETEST_LUFS; what is quieter misses its SNR.
        gain_db = drawer.ref_db + snr_db - np.maximum(lufs, _QUIETEST_LUFS)
    factors: NDArray[np.float32] = (10 ** (gain_db / 20)).astype(np.float32)
    return factors


def _place(rendered: Sequence[Audio], events: list[dict[str, Any]], factors: NDArray[np.float32], drawer: Any) -> Audio:
    """Level the events and put them where they begin: (n_stems, n_channels, n_samples)."""
    stems = np.zeros((len(events), drawer.n_channels, int(drawer.duration * drawer.sr)), dtype=np.float32)
    for stem, audio, event, factor in zip(stems, rendered, events, factors, strict=True):
        here = stem[:, int(drawer.sr * event["event_time"]) :][:, : audio.shape[1]]
        np.multiply(audio[:, : here.shape[1]], factor, out=here)
    return stems


def _overall_scale(mixture: Audio, mixing: MixingSettings, random_state: np.random.RandomState) -> float:
    """Return one factor for everything: down to full scale where it would clip, then the drawn level."""
    peak = float(max(mixture.max(), -mixture.min()))
    level_db = random_state.uniform(*mixing.level_db)
    return float(min(1.0, 1.0 / max(peak, 1e-10)) * 10 ** (level_db / 20))


@dataclasses.dataclass(frozen=True)
class MixClosure:
    """Makes one mixture an index: the closure that ``nussl.datasets.OnTheFly`` asks for.

    It holds plain settings only, so that it travels to the workers of a DataLoader.
    """

    path: Path
    """Folder of the datasets."""
    subset: str
    """'train', 'valid' or 'test'."""
    mixing: MixingSettings = MixingSettings()
    sample_rate: int = SignalSettings.sample_rate
    seed: int = 0

    def mixture(self, index: int, epoch: int = 0) -> Mixture:
        """Make mixture `index` of `epoch`; the same numbers always give the same mixture."""
        # One word of entropy for the whole mixture: scaper seeds a RandomState with it.
        words = np.random.SeedSequence((self.seed, epoch, index)).generate_state(2)
        coherent = words[1] / 2**32 < self.mixing.coherent_probability
        generate = generate_coherent_mixture if coherent else generate_incoherent_mixture
        return generate(
            self.path / self.subset / "foreground",
            self.path / self.subset / "background",
            event_template(self.mixing, coherent=bool(coherent)),
            int(words[0]),
            mixing=self.mixing,
            sample_rate=self.sample_rate,
        )

    def __call__(self, dataset: Any, index: int) -> dict[str, Any]:
        """Make mixture `index` for a nussl dataset.

        Parameters
        ----------
        dataset
            The ``OnTheFly`` dataset that asks, which sets sample rate and STFT on the signals.
        index
            Number of the mixture.

        Returns
        -------
        dict
            ``mix`` and ``sources`` (by stem) as nussl's AudioSignals, and ``metadata`` with the JAMS and the labels.
        """
        mixture, jam, _, stems = self.mixture(int(index))
        load: Callable[..., Any] = dataset._load_audio_from_array
        return {
            "mix": load(audio_data=mixture.T, sample_rate=self.sample_rate),
            "sources": {
                stem: load(audio_data=audio.T, sample_rate=self.sample_rate)
                for stem, audio in zip(STEMS, stems, strict=True)
            },
            "metadata": {"jams": jam, "labels": list(STEMS)},
        }


def create_mix_closure(
    path: str | Path,
    subset: str,
    *,
    mixing: MixingSettings | None = None,
    sample_rate: int = SignalSettings.sample_rate,
    seed: int = 0,
) -> MixClosure:
    """Create the closure that makes mixtures of a prepared dataset.

    Parameters
    ----------
    path
        Folder of the datasets: ``<path>/<subset>/foreground/<stem>/<song>.wav``.
    subset
        'train', 'valid' or 'test'.
    mixing, sample_rate, seed
        As for `MixClosure`; the specification's when left out.

    Returns
    -------
    MixClosure

    Raises
    ------
    RenderingError
        If the dataset is missing or a stem has no songs.
    """
    for stem in STEMS:
        songs_of(Path(path) / subset / "foreground" / stem)
    return MixClosure(Path(path), subset, mixing or MixingSettings(), sample_rate, seed)
