"""Every setting, as frozen dataclasses.

Each checks itself, and its defaults live here and in no other file. A preset bundles one signal, one
network and one recipe under the name that ``--preset`` takes. The numbers of ``specified`` are those of the
specification's tables "Augmentation Parameters" and "Model Parameters".
"""

import contextlib
import dataclasses
import math
import numbers
import os
import string
import types
import typing
from pathlib import Path
from typing import Any

from vocal_extraction.errors import SettingsError
from vocal_extraction.output_formats import FORMATS

LARGEST_SEED = 2**64 - 1
"""What torch's generators take; NumPy's take more."""
MOST_EPOCHS = MOST_MIXTURES = 10**6
"""Most mixtures of a fixed set, and of an epoch: their order is drawn anew in every epoch, in memory."""

MOST_WORKERS = 1_024
"""Processes or threads that one command may start."""
LARGEST_PORT = 2**16 - 1

PACKAGE_FOLDER = Path(__file__).resolve().parent
PROJECT_FOLDER = PACKAGE_FOLDER.parent
"""Where the code lies: shipped models are found here, whatever the working directory."""
IS_CHECKOUT = (PROJECT_FOLDER / "requirements.txt").is_file()
"""Whether this is a checkout, which has make and the exact requirements, and not an installed wheel."""

STEMS = ("bass", "drums", "other", "vocals")
"""The four stems of MUSDB18, in the alphabetical order in which nussl stacks sources."""

ACCOMPANIMENT = "bass+drums+other"
"""nussl's name for the sum of all stems but the vocals."""

DATASET_FOLDER = Path("dataset")
CHECKPOINT_FOLDER = Path("checkpoints")
TRAINED_MODEL = CHECKPOINT_FOLDER / "best.model.pth"
EVALUATION_FOLDER = Path("evaluation_results")
EXTRACTION_FOLDER = Path("extracted")
DEMO_FOLDER = Path("demo_output")
"""Where everything lands that `make demo` makes."""
_PACKAGED_FOLDER = PACKAGE_FOLDER / "pretrained_model"
PRETRAINED_FOLDER = _PACKAGED_FOLDER if _PACKAGED_FOLDER.is_dir() else PROJECT_FOLDER / "pretrained_model"
"""The models that ship: package data where a wheel was installed, a folder of the root in a checkout."""


def models_folder() -> Path:
    """Return where imported models lie: the folder that VOCAL_EXTRACTION_MODELS names, else the platform's for data."""
    import platformdirs

    return Path(os.environ.get("VOCAL_EXTRACTION_MODELS") or platformdirs.user_data_path("vocal-extraction") / "models")


def require(owner: object, **checks: bool) -> None:
    """Raise one SettingsError naming every check that failed, with the values that broke it."""
    broken = [name for name, holds in checks.items() if not holds]
    if broken:
        values = dataclasses.asdict(owner)  # type: ignore[call-overload]
        named = [[field for field in values if name.startswith(field)] for name in broken]
        got = {field: values[field] for fields in named for field in fields} if all(named) else values
        complaints = "; ".join(name.replace("_", " ") for name in broken)
        values_got = ", ".join(f"{name.replace('_', ' ')} {value!r}" for name, value in got.items())
        raise SettingsError(f"{complaints}. Got {values_got}.")


class Checked:
    """What all settings are: their values are of their fields' types, or refused, before `_check` looks at them."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            object.__setattr__(self, name, converted(getattr(self, name), hint, name))
        self._check()

    def _check(self) -> None: ...


_NUMBERS: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real}


def converted(value: Any, hint: Any, name: str) -> Any:
    """Return a value as a type that a field may have, or raise a SettingsError that calls it `name`."""
    kind, *others = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and others:
        return None
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's too, which is no bool
        value = bool(value)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list | tuple):
            return tuple(converted(each, typing.get_args(kind)[0], name) for each in value)
    elif isinstance(value, bool) == (kind is bool) and isinstance(value, _NUMBERS.get(kind, kind)):
        with contextlib.suppress(OverflowError):  # an integer that no float can hold
            return kind(value) if kind in _NUMBERS else value
    raise SettingsError(f"{name} is {value!r:.80}; expected {getattr(kind, '__name__', kind)}.")


_LOSSES = ("magnitude_l1", "waveform", "waveform_batch", "spectrum_batch")


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


def _is_range(bounds: tuple[float, float], lowest: float = -math.inf, highest: float = math.inf) -> bool:
    return len(bounds) == 2 and all(map(math.isfinite, bounds)) and lowest <= bounds[0] <= bounds[1] <= highest


@dataclasses.dataclass(frozen=True)
class SignalSettings(Checked):
    """Sample rate and STFT of the network's input."""

    sample_rate: int = 44_100
    """Samples per second."""
    window_length: int = 512
    """STFT window in samples."""
    hop_length: int = 128
    """Samples between two STFT frames."""
    window_type: str = "sqrt_hann"
    """Window by nussl's name; the square root of Hann, used twice, adds up to one."""
    stereo: str = "each"
    """Which views of a stereo song the network takes: 'each' channel, or 'mid-side', half of sum and difference."""
    input_level_db: float | None = None
    """Level that a song has for the network, in dB of full scale (RMS), whatever its own; None: as the song is."""
    padding: str = "half"
    """What frames see beyond a song's ends: 'half' a window of zeros (as nussl has it), a 'whole' window of them
    (Spleeter), or the song mirrored, 'reflect' (torch.stft and open-unmix)."""

    def _check(self) -> None:
        require(
            self,
            sample_rate_must_be_between_8_and_192_kHz=8_000 <= self.sample_rate <= 192_000,
            window_length_must_be_even_and_16_to_16384=self.window_length in range(16, 16_385, 2),
            hop_length_must_divide_window_length_into_2_or_more=(
                0 < self.hop_length <= self.window_length // 2 and self.window_length % self.hop_length == 0
            ),
            window_type_must_be_sqrt_hann_or_hann=self.window_type in ("sqrt_hann", "hann"),
            stereo_must_be_each_or_mid_side=self.stereo in ("each", "mid-side"),
            padding_must_be_half_whole_or_reflect=self.padding in ("half", "whole", "reflect"),
            input_level_db_must_be_none_or_minus_60_to_0=self.input_level_db is None or -60 <= self.input_level_db <= 0,
        )

    @property
    def n_bins(self) -> int:
        """Frequency bins of one frame: ``window_length // 2 + 1``."""
        return self.window_length // 2 + 1


@dataclasses.dataclass(frozen=True)
class MixingSettings(Checked):
    """How stems become a mixture. Ranges are (lowest, highest), drawn uniformly by scaper."""

    duration_s: float = 5.0
    """Length of a mixture in seconds."""
    pitch_shift_semitones: tuple[float, float] = (-2.0, 2.0)
    """Pitch shift of an event."""
    time_stretch: tuple[float, float] = (0.8, 1.2)
    """Factor on an event's duration (scaper's definition)."""
    snr_db: tuple[float, float] = (-5.0, 5.0)
    """Loudness of an event relative to `ref_db`, in LU."""
    offset_s: tuple[float, float] = (0.0, 7.0)
    """Where in its stem an event begins, in seconds."""
    ref_db: float = -20.0
    """Reference loudness in LUFS."""
    coherent_probability: float = 0.5
    """Share of mixtures whose stems come from one song."""
    coherent_gain_db: float | None = None
    """None: coherent stems are levelled to `snr_db` like any other. A number: they keep the song's own balance, each
    moved by at most this many decibels."""
    stretch_follows_pitch: bool = False
    """True: an event is resampled, as a record played faster, so that its stretch follows from its pitch shift."""
    channels: str = "mid"
    """Which signal of a stereo stem is mixed: 'mid' (the mean), 'any' (one of left, right, mid and side per song)
    or 'stereo' (both, as they are or swapped, now and then with mid in both)."""
    polarity_flips: bool = False
    """True: the sign of each stem of an incoherent mixture is drawn."""
    level_db: tuple[float, float] = (0.0, 0.0)
    """Gain on the finished mixture and all its stems, so that training has quiet and loud songs."""
    band_limits_hz: tuple[float, ...] = ()
    """Cut-off frequencies of low-passes, of which a quarter of the mixtures get one; none: no low-pass."""
    equalizer_db: float = 0.0
    """Every stem gets an equalizer of its own, whose gain at each of its frequencies is at most this, up or down."""

    def _check(self) -> None:
        require(
            self,
            duration_s_must_be_between_half_a_second_and_a_minute=0.5 <= self.duration_s <= 60,
            pitch_shift_semitones_must_lie_within_an_octave=_is_range(self.pitch_shift_semitones, -12, 12),
            time_stretch_must_lie_between_a_half_and_two=_is_range(self.time_stretch, 0.5, 2),
            snr_db_must_be_a_finite_range=_is_range(self.snr_db),
            offset_s_must_be_a_range_from_0_up=_is_range(self.offset_s, 0),
            ref_db_must_lie_between_minus_60_and_0=-60 <= self.ref_db <= 0,
            coherent_probability_must_lie_between_0_and_1=0 <= self.coherent_probability <= 1,
            coherent_gain_db_must_be_none_or_0_to_60=self.coherent_gain_db is None or 0 <= self.coherent_gain_db <= 60,
            level_db_must_be_a_finite_range=_is_range(self.level_db),
            band_limits_hz_must_be_positive=all(map(_is_positive, self.band_limits_hz)),
            equalizer_db_must_be_0_to_24=0 <= self.equalizer_db <= 24,
            channels_must_be_mid_any_or_stereo=self.channels in ("mid", "any", "stereo"),
        )


@dataclasses.dataclass(frozen=True)
class NetworkSettings(Checked):
    """The network's class by name and the arguments of its constructor, beside the number of bins."""

    kind: str = "MaskInference"
    """A key of `networks.NETWORKS`, which is looked up where the network is built."""
    num_audio_channels: int = 1
    """Channels that go through the network together; 1 means each channel by itself."""
    hidden_size: int = 50
    """Units of each LSTM direction, features of a band, or channels of a U-Net before it halves anything."""
    num_layers: int = 2
    """LSTM layers, rounds of band-split processing, or how often a U-Net halves time and frequency."""
    bidirectional: bool = True
    """Whether future frames are used as well."""
    dropout: float = 0.3
    """Dropout between layers, from 0 to below 1."""
    activation: str = "sigmoid"
    """What bounds the masks: 'sigmoid' or 'softmax' (over the sources)."""
    bands: str = "coarse"
    """Bands of a band-split network, see `layers.band_edges`: 'coarse' or 'fine'."""
    over_bands: str = "lstm"
    """What runs over the bands of a frame: 'lstm' or 'attention'."""
    num_input_features: int = 1_024
    """Lowest bins that a U-Net looks at; those above have the mean mask of the highest of these."""
    lookahead: int = 0
    """Frames of the future that a network without `bidirectional` waits for before it infers a mask."""

    def _check(self) -> None:
        require(
            self,
            num_audio_channels_must_be_1_to_8=1 <= self.num_audio_channels <= 8,
            hidden_size_must_be_1_to_4096=1 <= self.hidden_size <= 4_096,
            num_layers_must_be_1_to_24=1 <= self.num_layers <= 24,
            dropout_must_be_at_least_0_and_below_1=0 <= self.dropout < 1,
            activation_must_be_sigmoid_or_softmax=self.activation in ("sigmoid", "softmax"),
            lookahead_must_be_0_to_64=0 <= self.lookahead <= 64,
        )


@dataclasses.dataclass(frozen=True)
class TrainingSettings(Checked):
    """How long, how fast, and when to stop."""

    n_epochs: int = 25
    """Passes of `batches_per_epoch` batches."""
    batches_per_epoch: int = 32
    """Optimizer steps of an epoch."""
    batch_size: int = 10
    """Mixtures of a step, over all processes together."""
    n_mixtures: int | None = 1_000
    """Size of the fixed set that batches are drawn from; None mixes anew in every epoch."""
    n_validation_mixtures: int | None = 1_000
    """Fixed validation mixtures; None validates on the whole validation songs, unchanged, by their SI-SDR."""
    loss: str = "magnitude_l1"
    """'magnitude_l1' (the specification's), 'waveform' (decibels of error energy over mixture energy), or
    'waveform_batch' (decibels of the mean of that ratio over a batch), or 'spectrum_batch' (that of spectra)."""
    source_weights: tuple[float, ...] = ()
    """Weight of each source in the loss, in the order of the sources; none: all alike."""
    learning_rate: float = 1e-3
    """Adam's step size at its highest."""
    learning_rate_schedule: str = "constant"
    """'constant' or 'cosine' (a short rise, then half a cosine down to nothing)."""
    gradient_clip_norm: float | None = None
    """Largest norm of the gradient; None leaves it as it is."""
    weight_average_decay: float | None = None
    """Decay per step of the moving average of the weights that is validated and saved; None saves the weights."""
    early_stopping_epochs: int | None = None
    """Epochs without a better validation loss after which training ends; None never ends early."""
    mixed_precision: bool = False
    """bfloat16 in the network's matrix products, where the device multiplies it in hardware."""
    compile_network: bool = False
    """`torch.compile` on CUDA."""

    def _check(self) -> None:
        clip, decay = self.gradient_clip_norm, self.weight_average_decay

        def is_count(value: int | None) -> bool:
            return value is None or 1 <= value <= MOST_MIXTURES

        require(
            self,
            n_epochs_must_be_1_to_a_million=1 <= self.n_epochs <= MOST_EPOCHS,
            batches_per_epoch_must_be_at_least_1=self.batches_per_epoch >= 1,
            batch_size_must_be_at_least_1=self.batch_size >= 1,
            an_epoch_must_have_at_most_a_million_mixtures=self.batches_per_epoch * self.batch_size <= MOST_MIXTURES,
            n_mixtures_must_be_none_or_1_to_a_million=is_count(self.n_mixtures),
            n_validation_mixtures_must_be_none_or_1_to_a_million=is_count(self.n_validation_mixtures),
            loss_must_be_magnitude_l1_waveform_waveform_batch_or_spectrum_batch=self.loss in _LOSSES,
            source_weights_must_be_positive=all(map(_is_positive, self.source_weights)),
            learning_rate_must_be_positive=_is_positive(self.learning_rate),
            learning_rate_schedule_must_be_constant_or_cosine=self.learning_rate_schedule in ("constant", "cosine"),
            gradient_clip_norm_must_be_none_or_positive=clip is None or _is_positive(clip),
            weight_average_decay_must_be_none_or_between_0_and_1=decay is None or 0 < decay < 1,
            early_stopping_epochs_must_be_none_or_at_least_1=is_count(self.early_stopping_epochs),
        )


TEMPLATE_FIELDS = ("folder", "song", "stem", "ext", "artist", "title", "album", "track", "model")
"""Of `ExtractionSettings.output_template`: the output folder with the song's place in the folder that was searched, the
file's name, the stem's, its ending, four tags of the song, and the model's name."""
_UNREADABLE = {"unreadable"}


@dataclasses.dataclass(frozen=True)
class ExtractionSettings(Checked):
    """How a song is separated, and what is written of it."""

    format: str = "wav16"
    """A key of `output_formats.FORMATS`."""
    bitrate_kbps: int = 256
    """Bit rate of the lossy formats, for all channels together."""
    mask: str = "soft"
    """'soft', or 'binary': 1 where a source's mask is the largest, with one source where it exceeds a half."""
    phase: str = "mixture"
    """'mixture', or 'griffin-lim': a phase that fits the masked magnitudes."""
    output_template: str = "{folder}/{song}/{stem}.{ext}"
    """Where a stem is written, with fields from `TEMPLATE_FIELDS`; without `folder`, below the output folder."""
    overwrite: bool = False
    """Whether files that exist may be replaced."""
    keep_partial: bool = False
    """Whether a truncated or damaged song is taken as far as it decodes."""
    track: str | None = None
    """Audio track of a file that has several: its number, from 1, or its language; None is what players take."""
    from_s: float = 0.0
    """Where separation begins; before it all sources are silent, and what they leave of the song is the song."""
    to_s: float | None = None
    """Where separation ends; None is the song's end."""
    chunk_s: float = 5.0
    """Length of the chunks in which a song goes through the network, without context. Memory grows with it. Networks
    that are run layer by layer take shorter ones on a CPU: 2 s, and twice `context_s` more for Griffin-Lim."""
    context_s: float = 0.75
    """What is computed before and after a chunk and dropped, by Griffin-Lim and by networks that know chunks only."""
    wiener: int = 0
    """Rounds of a multichannel Wiener filter behind the masks of a model of several sources; 0: none."""

    def _check(self) -> None:
        fields = self.template_fields
        require(
            self,
            bitrate_kbps_must_be_16_to_512=16 <= self.bitrate_kbps <= 512,
            mask_must_be_soft_or_binary=self.mask in ("soft", "binary"),
            phase_must_be_mixture_or_griffin_lim=self.phase in ("mixture", "griffin-lim"),
            chunk_s_must_be_1_to_600=1 <= self.chunk_s <= 600,
            context_s_must_be_0_to_30=0 <= self.context_s <= 30,
            wiener_must_be_0_to_10=0 <= self.wiener <= 10,
            track_must_be_a_number_from_1_or_a_language=self.track is None or self.track.strip("0") != "",
            from_s_must_be_0_or_more=0 <= self.from_s < float("inf"),
            to_s_must_be_more_than_from_s=self.to_s is None or self.from_s < self.to_s < float("inf"),
            **{
                f"format_must_be_one_of_{'_'.join(FORMATS)}": self.format in FORMATS,
                "output_template must have names in pairs of braces, such as {stem}, and nothing else in them": (
                    fields != _UNREADABLE
                ),
                "output_template must hold {song} or {title}, and {stem} and {ext}": fields == _UNREADABLE
                or ({"stem", "ext"} <= fields and bool(fields & {"song", "title"})),
                "output_template may hold {folder} {song} {stem} {ext} {artist} {title} {album} {track} {model} only": (
                    fields <= {*TEMPLATE_FIELDS, *_UNREADABLE}
                ),
            },
        )

    @property
    def template_fields(self) -> set[str]:
        """Names in braces in the output template; one that cannot be filled as it is has 'unreadable' alone."""
        try:
            os.fsencode(self.output_template)
            parts = [part[1:] for part in string.Formatter().parse(self.output_template) if part[1] is not None]
        except ValueError:
            return _UNREADABLE
        is_plain = "\0" not in self.output_template and not any(form or conversion for _, form, conversion in parts)
        return {str(field) for field, _, _ in parts} if is_plain else _UNREADABLE

    @property
    def region(self) -> tuple[float, float | None] | None:
        """Where separation begins and ends, in seconds; None is the whole song."""
        return None if self.from_s == 0 and self.to_s is None else (self.from_s, self.to_s)
