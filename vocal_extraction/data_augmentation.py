"""Mixtures that scaper draws: coherent ones (all stems from one song) and incoherent ones.

Scaper (Salamon et al., "Scaper: a library for soundscape synthesis and augmentation", WASPAA 2017) draws every event
from the template and describes it in a JAMS annotation; `rendering` makes the audio. What is drawn always fits: first
the stretch, then an excerpt as long as fills the mixture, then an offset at which the stem holds that excerpt, so that
scaper never has to warn and repair. A mixture depends on its seed alone.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vocal_extraction.compatibility import scaper
from vocal_extraction.errors import SettingsError
from vocal_extraction.rendering import EQUALIZER_HZ, Audio, RenderingError, duration_s_of, mix_events, songs_of
from vocal_extraction.settings import STEMS, MixingSettings, SignalSettings
from vocal_extraction.tracks import Track, check_subset, find_tracks, prepare_if_needed

Mixture = tuple[Audio, Any, list[list[Any]], list[Audio]]  # mixture, JAMS, annotation list, stems, as scaper has them

_BAND_LIMITED_SHARE = 0.25
_CHANNELS = {  # what may be drawn of a song, by the setting; once in seven times a stereo song is a mono one
    "mid": ("mid",),
    "any": ("left", "right", "mid", "side"),
    "stereo": (*("stereo", "swapped") * 3, "doubled"),
}


def event_template(mixing: MixingSettings, *, coherent: bool = False) -> dict[str, Any]:
    """Return scaper's event template for these settings.

    For coherent mixtures, ``snr`` is a gain on the song's own balance where ``mixing.coherent_gain_db`` is given.

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
        Holds ``<stem>/<song>.wav``.
    background_dir
        Folder of background sounds that scaper asks for; it may be empty.
    template
        Scaper's event parameters, as `event_template` makes them; without ``pitch_shift`` or ``time_stretch`` there is
        none, and what else it lacks is as in ``mixing``.
    seed
        The same seed, from 0 to 2**32 - 1, gives the same mixture.
    mixing, sample_rate
        Duration, reference loudness and the like, and samples per second; the specification's when left out.

    Returns
    -------
    tuple
        `Mixture`: float32 (n_samples, n_channels), one channel unless ``mixing.channels`` is 'stereo'; its JAMS;
        ``[onset_s, offset_s, label]`` of every event; and the stems in alphabetical order, which add up to the mixture.

    Raises
    ------
    RenderingError
        If a folder or a stem is missing or cannot be read.
    SettingsError
        If the seed is none, or the template has what no event has.
    """
    mixing = mixing or MixingSettings()
    songs, drawer = _begin(foreground_dir, background_dir, seed, mixing, sample_rate)
    song = Path(_draw(("choose", songs["vocals"]), drawer.random_state))
    # .../<stem>/<song>.wav: only the stem's own folder changes, whatever the folders above are called.
    return _coherent(drawer, {stem: str(song.parent.parent / stem / song.name) for stem in STEMS}, template, mixing)


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
    songs, drawer = _begin(foreground_dir, background_dir, seed, mixing, sample_rate)
    return _incoherent(drawer, {stem: ("choose", paths) for stem, paths in songs.items()}, template, mixing)


def _begin(foreground_dir: str | Path, background_dir: str | Path, *options: Any) -> tuple[dict[str, list[str]], Any]:
    """Return the songs of each stem, with errors that say more than scaper's, and a scaper that draws of them."""
    songs = {stem: songs_of(Path(foreground_dir) / stem) for stem in STEMS}
    if not Path(background_dir).is_dir():
        raise RenderingError(f"No folder {background_dir}, which scaper asks for; it may be empty. Make it.")
    return songs, _scaper(foreground_dir, background_dir, *options)


def _coherent(drawer: Any, files: Mapping[str, str], template: dict[str, Any], mixing: MixingSettings) -> Mixture:
    fitted = _fit(template, files.values(), mixing, drawer.random_state)
    fitted["source_time"] = ("const", _draw(fitted["source_time"], drawer.random_state))
    for file in files.values():
        _add_event(drawer, fitted, file)
    return _render(drawer, mixing, {file: stem for stem, file in files.items()}, coherent=True)


def _incoherent(
    drawer: Any, choices: Mapping[str, tuple[Any, ...]], template: dict[str, Any], mixing: MixingSettings
) -> Mixture:
    """Mix stems of songs that are drawn one by one; `choices` are scaper's distributions of files by stem."""
    stems = {}
    for stem, choice in choices.items():
        file = _draw(choice, drawer.random_state)
        _add_event(drawer, _fit(template, [file], mixing, drawer.random_state), file)
        stems[file] = stem
    return _render(drawer, mixing, stems, coherent=False)


def _add_event(drawer: Any, fitted: dict[str, Any], file: str) -> None:
    # Scaper wants the label to be the file's folder; `_render` puts the stem's name in its place.
    label = Path(file).parent.name
    drawer.fg_labels = sorted({*drawer.fg_labels, label})
    drawer.add_event(**{**fitted, "label": ("const", label), "source_file": ("const", file)})


def _scaper(
    foreground_dir: str | Path, background_dir: str | Path, seed: int, mixing: MixingSettings, sample_rate: int
) -> Any:
    try:
        drawer = scaper.Scaper(mixing.duration_s, str(foreground_dir), str(background_dir), random_state=seed)
    except ValueError as error:
        raise SettingsError(f"The seed is {seed!r}; expected a whole number from 0 to 2**32 - 1.") from error
    drawer.sr, drawer.ref_db, drawer.n_channels = sample_rate, mixing.ref_db, 2 if mixing.channels == "stereo" else 1
    return drawer


def _draw(distribution: tuple[Any, ...], random_state: np.random.RandomState) -> Any:
    return scaper.core._get_value_from_dist(distribution, random_state)


def _fit(
    template: dict[str, Any], source_files: Iterable[str], mixing: MixingSettings, random_state: np.random.RandomState
) -> dict[str, Any]:
    """Draw pitch, stretch and time, and narrow excerpt and offset to what these stems hold at that stretch."""
    known = event_template(mixing)
    if unknown := sorted(set(template) - set(known)):
        raise SettingsError(f"The template has {', '.join(unknown)}; an event has {', '.join(known)}.")
    template = {**known, "pitch_shift": None, "time_stretch": None, **template}
    source_s = min(map(duration_s_of, source_files))
    pitch, stretch = (
        None if template[name] is None else float(_draw(template[name], random_state))
        for name in ("pitch_shift", "time_stretch")
    )
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


def _render(drawer: Any, mixing: MixingSettings, stems_by_file: Mapping[str, str], *, coherent: bool) -> Mixture:
    """Instantiate what scaper holds, render it and complete the annotation."""
    _, jam, annotation_list, _ = drawer.generate(no_audio=True, fix_clipping=True)
    annotation = jam.annotations.search(namespace="scaper")[0]
    events = [event.value for event in annotation.data]
    for event, entry in zip(events, annotation_list, strict=True):
        event["label"] = entry[2] = stems_by_file[event["source_file"]]
    random_state, names = drawer.random_state, _CHANNELS[mixing.channels]
    n_draws = 1 if coherent else len(events)
    channels = [names[random_state.randint(len(names))] if len(names) > 1 else names[0] for _ in range(n_draws)]
    channels *= len(events) // n_draws
    polarities = np.ones(len(events), dtype=np.float32)
    if mixing.polarity_flips and not coherent:
        polarities = random_state.choice([-1.0, 1.0], size=len(events)).astype(np.float32)
    is_limited = mixing.band_limits_hz and random_state.rand() < _BAND_LIMITED_SHARE
    options: dict[str, Any] = {"band_limit_hz": random_state.choice(mixing.band_limits_hz) if is_limited else None}
    options |= {"together": coherent, "keeps_balance": coherent and mixing.coherent_gain_db is not None}
    level_db = random_state.uniform(*mixing.level_db)
    if mixing.equalizer_db:
        gains_db = random_state.uniform(-mixing.equalizer_db, mixing.equalizer_db, (len(events), len(EQUALIZER_HZ)))
        options["equalizer_gains_db"] = annotation.sandbox.scaper.equalizer_gains_db = gains_db.tolist()
    mixture, stems, scale = mix_events(events, channels, polarities, drawer, level_db=level_db, **options)
    facts = annotation.sandbox.scaper
    facts.no_audio = False
    facts.peak_normalization_scale_factor = scale
    facts.ref_db_change = float(20 * np.log10(scale))
    facts.ref_db_generated = drawer.ref_db + facts.ref_db_change
    facts.channels, facts.polarities = channels, polarities.tolist()
    return mixture.T, jam, annotation_list, [stem.T for stem in stems]


@dataclasses.dataclass(frozen=True)
class MixClosure:
    """Makes one mixture an index: the closure that ``nussl.datasets.OnTheFly`` asks for. It can be pickled."""

    tracks: tuple[Track, ...]  # what is mixed; the stems of a track need not be those of another
    mixing: MixingSettings = MixingSettings()
    sample_rate: int = SignalSettings.sample_rate
    seed: int = 0

    def mixture(self, index: int, epoch: int = 0) -> Mixture:
        """Make mixture `index` of `epoch`; the same numbers always give the same mixture.

        A coherent one has all stems of a song, an incoherent one vocals and the other stems of some song, each of any.
        """
        words = np.random.SeedSequence((self.seed, epoch, index)).generate_state(2)
        songs = self._songs
        coherent = bool(songs) and bool(words[1] / 2**32 < self.mixing.coherent_probability)
        foreground = next(iter(self.tracks[0].sources.values()))[0].parent.parent
        background = foreground.parent / "background"
        background = background if background.is_dir() else foreground
        drawer = _scaper(foreground, background, int(words[0]), self.mixing, self.sample_rate)
        template = event_template(self.mixing, coherent=coherent)
        if coherent:
            file = _draw(_choice({file: weight for file, (weight, _) in songs.items()}), drawer.random_state)
            return _coherent(drawer, songs[file][1], template, self.mixing)
        return _incoherent(drawer, self._choices(drawer.random_state), template, self.mixing)

    @functools.cached_property
    def _songs(self) -> dict[str, tuple[float, dict[str, str]]]:
        """Songs of several stems, by the file of their last stem: weight, and files by stem."""
        songs = {}
        for track in self.tracks:
            files = {stem: str(track.sources[stem][0]) for stem in sorted(track.sources)}
            if len(files) > 1:
                songs[list(files.values())[-1]] = (track.weight, files)
        return songs

    @functools.cached_property
    def _weights(self) -> dict[str, dict[str, float]]:
        """Weights by stem and file."""
        weights: dict[str, dict[str, float]] = {}
        for track in self.tracks:
            for stem, files in track.sources.items():
                weights.setdefault(stem, {})[str(files[0])] = track.weight
        return weights

    @functools.cached_property
    def _line_ups(self) -> dict[tuple[str, ...], float]:
        """Combinations of stems that accompany vocals somewhere, by the weights of their songs together."""
        line_ups: dict[tuple[str, ...], float] = collections.defaultdict(float)
        for track in self.tracks:
            if stems := sorted(track.sources.keys() - {"vocals"}):
                line_ups[tuple(stems)] += track.weight
        return line_ups or {(): 1.0}

    def _choices(self, random_state: np.random.RandomState) -> dict[str, tuple[Any, ...]]:
        """Return what each stem of an incoherent mixture is drawn from."""
        line_ups = list(self._line_ups)
        shares = np.array(list(self._line_ups.values()))
        chosen = 0 if len(line_ups) == 1 else random_state.choice(len(line_ups), p=shares / shares.sum())
        stems = {*line_ups[chosen], *({"vocals"} & self._weights.keys())}
        return {stem: _choice(self._weights[stem]) for stem in sorted(stems)}

    def __call__(self, dataset: Any, index: int) -> dict[str, Any]:
        """Make mixture `index` for nussl's ``OnTheFly``, whose sample rate and STFT the signals get."""
        mixture, jam, annotation_list, stems = self.mixture(int(index))
        labels = [label for _, _, label in annotation_list]
        load = functools.partial(dataset._load_audio_from_array, sample_rate=self.sample_rate)
        return {
            "mix": load(audio_data=mixture.T),
            "sources": {label: load(audio_data=stem.T) for label, stem in zip(labels, stems, strict=True)},
            "metadata": {"jams": jam, "labels": labels},
        }


def _choice(weights: Mapping[str, float]) -> tuple[Any, ...]:
    """Return scaper's distribution of files with these weights."""
    total = sum(weights.values())
    if len(set(weights.values())) == 1:
        return "choose", list(weights)
    return "choose_weighted", list(weights), [weight / total for weight in weights.values()]


def create_mix_closure(
    path: str | Path,
    subset: str,
    *,
    mixing: MixingSettings | None = None,
    sample_rate: int = SignalSettings.sample_rate,
    seed: int = 0,
    musdb_path: str | Path | None = None,
) -> MixClosure:
    """Create the closure that makes mixtures of a dataset, which is prepared first where it is missing.

    `path` is the folder of the dataset, or that of its `subset` ('train', 'valid' or 'test'); for `musdb_path` see
    `prepare_if_needed`, for the others `MixClosure`. Raises TrackError if there is no such subset, or it has no songs,
    and PreparationError if MUSDB18 cannot be found, downloaded or decoded.
    """
    folder = Path(path)
    if folder.name == subset and not (folder / subset).is_dir():
        folder = folder.parent
    check_subset(subset)
    prepare_if_needed(folder, musdb_path)
    tracks = find_tracks(folder, subset=subset, sample_rate=sample_rate)
    return MixClosure(tuple(tracks), mixing or MixingSettings(), sample_rate, seed)
