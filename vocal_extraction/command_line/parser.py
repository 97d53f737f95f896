"""What ``python main.py ...`` understands.

Only what was typed reaches the function behind a command: a default lives in that function's signature or in
settings.py, never here. An option's destination is the name of the function's keyword argument.
"""

import argparse
import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vocal_extraction import __version__
from vocal_extraction.errors import SettingsError
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.presets import PRESETS, Preset, find_preset
from vocal_extraction.settings import (
    CHECKPOINT_FOLDER,
    DATASET_FOLDER,
    EVALUATION_FOLDER,
    EXTRACTION_FOLDER,
    LARGEST_PORT,
    LARGEST_SEED,
    MOST_EPOCHS,
    MOST_MIXTURES,
    MOST_WORKERS,
    ExtractionSettings,
)


def _number(kind: Callable[[str], float], minimum: float, maximum: float = float("inf")) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of the kind that is meant here") from None
        if not minimum <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be {minimum} or more, got {text}")
        if value > maximum:
            raise argparse.ArgumentTypeError(f"must be {maximum} or less, got {text[:40]}")
        return value

    return read


def _scaled(factor: float, kind: Callable[[float], float] = float) -> Callable[[str], float]:
    return lambda text: kind(factor * _number(float, 0, 10**9)(text))


def _time(text: str) -> float:
    """Return seconds.

    >>> [_time(text) for text in ("70.5", "1:10", "1:02:03")]
    [70.5, 70.0, 3723.0]
    """
    seconds = 0.0
    for part in text.split(":", 2):
        seconds = 60 * seconds + _number(float, 0)(part)
    return seconds


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected names with commas between")
    return names


def _preset(name: str) -> Preset:
    try:
        return find_preset(name)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _n(minimum: int, maximum: float = float("inf")) -> dict[str, Any]:
    return {"type": _number(int, minimum, maximum), "metavar": "N"}


def _one_of(*names: str, **more: Any) -> dict[str, Any]:
    return {"choices": names, **more}


_ON, _OFF = {"action": "store_true"}, {"action": "store_false"}
_DIR, _PATH = {"type": Path, "metavar": "DIR"}, {"type": Path, "metavar": "PATH"}
_MINUTES = {"type": _scaled(60), "metavar": "MIN"}
_SEVERAL = {"nargs": "+"}

_JSON = ("--json", "as_json", _ON, "print the result as JSON")
_DEVICE = ("--device", "", {"metavar": "NAME"}, "auto (the default), cpu, cuda, cuda:1, mps")
_RUNTIME = ("--runtime", "", _one_of("auto", "torch", "onnxruntime"), "what runs the network (default: the quicker)")
_NAME = {"metavar": "NAME"}
_MODELS_DIR = ("--models-dir", "models_folder", _DIR, "imported models (default: the platform's folder for data)")
_SHARD = ("--shard", "", {"metavar": "I/N"}, "of all songs, part I (from 0) of N; auto/N: I from the scheduler")
_OF_ENGINES = [
    ("--address", "cluster", {"metavar": "HOST:PORT"}, "of the Ray cluster; auto: this machine's (default: a new one)"),
    ("--gpu-share", "", {"type": _number(float, 0, 64), "metavar": "X"}, "of a GPU, for each worker in Ray"),
    ("--price-per-core-hour", "", {"type": _number(float, 0), "metavar": "X"}, "also say what it costs"),
]
_MASK = ("--mask", "", _one_of("soft", "binary"), "binary: 1 where a mask is the largest, of one source above a half")
_DATA = [
    ("--musdb-path", "", _DIR, "MUSDB18 on this machine (default: $MUSDB_PATH)"),
    ("--dataset", "dataset_folder", _DIR, f"prepared stems (default: {DATASET_FOLDER})"),
]

_PREPARE = [
    *_DATA,
    ("--no-download", "download", _OFF, "fail rather than download"),
    ("--jobs", "n_workers", _n(1, MOST_WORKERS), "songs decoded at the same time"),
    _JSON,
]
_FOLDERS = {**_SEVERAL, "metavar": "DIR[:SOURCE][=WEIGHT]"}
_TRAIN = [
    *_DATA,
    ("--tracks", "", _FOLDERS, "folders of songs to train on instead; of weight 2: drawn twice as often as others"),
    ("--mixtures", "maximum_number_of_mixtures", _n(1, MOST_MIXTURES), "mixtures to draw from"),
    ("--epochs", "n_epochs", _n(1, MOST_EPOCHS), "instead of the preset's"),
    ("--batches", "n_batches", _n(1, MOST_MIXTURES), "batches an epoch, likewise"),
    ("--validation", "n_validation_mixtures", _n(0, MOST_MIXTURES), "validation mixtures, likewise; 0: whole songs"),
    ("--preset", "", {"type": _preset, "metavar": "NAME"}, f"recipe: {', '.join(PRESETS)}, or a TOML file of yours"),
    ("--checkpoints", "checkpoint_folder", _DIR, f"default: {CHECKPOINT_FOLDER}"),
    ("--seed", "", _n(0, LARGEST_SEED), "the same seed gives the same run"),
    ("--start-from", "", {"type": Path, "metavar": "CHECKPOINT"}, "weights to begin with"),
    ("--resume", "", _ON, "continue from the last completed epoch"),
    ("--changed-data", "", _ON, "resume although songs were added or removed"),
    ("--cache", "cache_bytes", {"type": _scaled(10**9, round), "metavar": "GB"}, "keep mixtures, up to so many GB"),
    ("--workers", "n_workers", _n(0, MOST_WORKERS), "processes that mix"),
    _DEVICE,
    _JSON,
]
_AGAIN = {"action": "append"}
# Options of `evaluate` that mean nothing beside --estimates.
_ONLY_FOR_MODELS = ("--mask", "--device", "--model", "--normalization", "--preset", "--save-estimates", "--separator")
_EVALUATE = [
    *_DATA,
    ("--tracks", "", {**_SEVERAL, "metavar": "PATH"}, "folders of songs with stems, in any layout, not --dataset"),
    ("--preset", "preset_names", {**_NAME, **_AGAIN}, "a model that ships or was imported; several: compare"),
    ("--model", "models", {**_PATH, **_AGAIN}, "a checkpoint; several: compare (default: checkpoints/best.model.pth)"),
    ("--estimates", "estimates_folder", _DIR, "score DIR/SONG/vocals.wav instead"),
    ("--subset", "", _one_of("train", "valid", "test"), "songs to score (default: test)"),
    ("--limit", "", _n(1), "only the first N songs"),
    _SHARD,
    ("--metrics", "", _one_of("scale", "bsseval_v4", "leakage", **_SEVERAL), "families of scores (default: all)"),
    _MASK,
    ("--oracles", "", _ON, "also ideal masks: oracles"),
    ("--baselines", "", _ON, "also a random mask, REPET-SIM, 2DFT, HPSS"),
    ("--save-estimates", "", _ON, "keep the estimates as wavs"),
    ("--separator", "", _one_of("extraction", "nussl"), "nussl: through its DeepMaskEstimation"),
    ("--normalization", "", _one_of("stored", "song"), "song: by each song's own statistics, as published figures are"),
    ("-o --output", "output_folder", _DIR, f"default: {EVALUATION_FOLDER}"),
    ("--jobs", "n_jobs", _n(1, MOST_WORKERS), "songs scored at the same time"),
    ("--list", "list_path", {"metavar": "FILE"}, "more --tracks: one a line, or a table in Parquet; - is stdin"),
    ("--engine", "", _one_of("threads", "processes", "ray"), "ray: workers of a cluster (default: threads)"),
    *_OF_ENGINES,
    ("--overwrite", "", _ON, "move another model's results in the folder aside"),
    _MODELS_DIR,
    _DEVICE,
    _JSON,
]
_ENSEMBLE = [
    ("paths", "", {**_SEVERAL, "type": Path, "metavar": "CHECKPOINT"}, "two or more, trained apart"),
    ("-o --output", "output_path", {**_PATH, "required": True}, "where to; a list of models of any kind: NAME.toml"),
    ("--overwrite", "", _ON, "replace what is there"),
    _JSON,
]
_EXPORT = [
    ("models", "", {"nargs": "+", "metavar": "PRESET_OR_CHECKPOINT"}, "a model that ships, or a checkpoint of yours"),
    [
        ("-o --output", "output_path", _PATH, "a file .onnx, or a folder for the graphs of its parts"),
        ("--site", "site_folder", _DIR, "a page for any host of files, which runs the models in browsers"),
    ],
    ("--int8", "", _ON, "weights of 8 bits: a third of the size"),
    ("--tracks", "", _DIR, "songs to check the export on (default: $MUSDB_PATH, prepared or synthesised ones)"),
    ("--streaming", "", _ON, "states of the layers in and out, for blocks in turn"),
    ("--overwrite", "", _ON, "replace what is there"),
    _JSON,
]
_EXTRACT = [
    ("songs", "", {"nargs": "*", "metavar": "SONG_OR_FOLDER"}, "audio files or folders; - is stdin"),
    [
        ("--preset", "preset_name", _NAME, "a model that ships or was imported: `models` lists them"),
        ("--model", "", _PATH, "a checkpoint of yours (default: studio, which ships)"),
    ],
    ("-o --output", "output_folder", {"metavar": "DIR"}, f"default: {EXTRACTION_FOLDER}; - is stdout"),
    [
        ("--stems", "", {"type": _names, "metavar": "NAMES"}, "all, or names with commas (default: vocals, the rest)"),
        ("--without", "", {"type": _names, "metavar": "NAMES"}, "the song without these sources, as one stem"),
    ],
    ("--format", "", _one_of(*FORMATS), "default: wav16"),
    ("--bitrate", "bitrate_kbps", {**_n(1), "metavar": "KBPS"}, "of mp3, ogg and m4a"),
    ("--output-template", "", {"metavar": "TEXT"}, "default: {folder}/{song}/{stem}.{ext}"),
    _MASK,
    ("--phase", "", _one_of("mixture", "griffin-lim"), "default: the mixture's"),
    ("--wiener", "", _n(0), "rounds of a multichannel Wiener filter, for models of several sources (default: none)"),
    ("--overwrite", "", _ON, "replace what is there"),
    ("--track", "", {"metavar": "N|LANGUAGE"}, "of several audio tracks (default: as players choose)"),
    ("--from", "from_s", {"type": _time, "metavar": "TIME"}, "separate from here, as 1:10 or 70.5"),
    ("--to", "to_s", {"type": _time, "metavar": "TIME"}, "to here; outside, vocals are silent"),
    ("--keep-partial", "", _ON, "keep what decodes of a damaged file"),
    ("--jobs", "n_jobs", _n(1, MOST_WORKERS), "songs at the same time, each in a process"),
    ("--list", "list_path", {"metavar": "FILE"}, "more songs: one a line, or a table in Parquet; - is stdin"),
    _SHARD,
    ("--merge-manifests", "", _ON, "join the manifests of the shards below -o, add them up, and stop"),
    ("--engine", "", _one_of("processes", "ray"), "ray: workers of a cluster"),
    *_OF_ENGINES,
    ("--list-models", "", _ON, "list the models that are here, and stop"),
    _MODELS_DIR,
    _DEVICE,
    _RUNTIME,
    _JSON,
]
_LIVE = [
    ("audio", "", {"nargs": "*", "metavar": "-"}, "PCM or a wav from stdin, the mix to stdout"),
    ("--input", "input_device", {"metavar": "DEVICE"}, "where sound comes from (default: the system's)"),
    ("--output", "output_device", {"metavar": "DEVICE"}, "where the mix goes (default: the system's)"),
    ("--devices", "list_devices", _ON, "list the audio devices, and stop"),
    [
        ("--preset", "model", {"metavar": "NAME"}, "a model that ships (default: live)"),
        ("--low-latency", "model", {"action": "store_const", "const": "low-latency"}, "that model: 46 ms, not 186"),
        ("--model", "", _PATH, "a checkpoint of yours, of a network that runs forwards only"),
    ],
    [
        ("--stem", "", {"metavar": "NAME"}, "play this stem alone"),
        ("--gain", "gains", {"metavar": "NAME=DB,..."}, "play a mix, as vocals=-inf,other=0"),
    ],
    ("--record", "", _DIR, "write the stems as they come"),
    ("--ahead", "n_ahead", _n(1, 64), "blocks that separation may take, each a hop of delay (default: 2)"),
    ("--rate", "sample_rate", _n(8_000, 192_000), "samples per second of raw PCM and of the devices (default: 44100)"),
    ("--channels", "n_channels", _n(1, 2), "likewise (default: 2)"),
    ("--raw", "", _ON, "raw 32-bit floats to stdout, not a wav"),
]
_SERVE = [
    ("--host", "", {"metavar": "ADDRESS"}, "default: 127.0.0.1, this machine only"),
    ("--port", "", _n(1, LARGEST_PORT), "default: 7860, or a free one"),
    ("--model", "", _PATH, "offer this checkpoint before those that ship"),
    ("--token", "", {"metavar": "TEXT"}, "what clients must bring (default beyond this machine: a random one)"),
    ("--no-browser", "open_browser", _OFF, "do not start a browser"),
    ("--upload-mb", "upload_bytes", {"type": _scaled(2**20, round), "metavar": "MB"}, "largest song file"),
    ("--longest", "longest_s", _MINUTES, "longest song, in minutes"),
    ("--keep", "lifetime_s", _MINUTES, "how long files are kept"),
    ("--queue", "queue_length", _n(1), "songs that may wait"),
    _MODELS_DIR,
    _DEVICE,
]
_ACTIONS = ("import", "fetch", "remove", "show")
_MODELS = [
    ("action", "", {"nargs": "?", **_one_of("list", *_ACTIONS, default="list")}, "default: list"),
    ("what", "", {"nargs": "?", "metavar": "PATH_OR_NAME"}, "a file, folder, archive or wheel to import; else a name"),
    ("--name", "", _NAME, "what an imported or fetched model is called"),
    ("--high", "", _one_of("zeros", "average"), "of Spleeter: what its mask is above 11 kHz (default: zeros)"),
    ("--accept-licence", "", _ON, "fetch, after you have read the licence"),
    ("--measure", "", _ON, "list: measure how fast each model is here"),
    _MODELS_DIR,
    _JSON,
]
_OF_ACTIONS = {  # options of `models`, and with which actions they go
    "name": ("import", "fetch"),
    "high": ("import", "fetch"),
    "accept_licence": ("fetch",),
    "measure": ("list",),
    "what": _ACTIONS,
}
_COMMANDS: dict[str, tuple[str, list[Any]]] = {
    "prepare": ("Decode MUSDB18 into the dataset folder (train and evaluate do it by themselves).", _PREPARE),
    "train": ("Train a network.", _TRAIN),
    "evaluate": ("Score a network on the test songs.", _EVALUATE),
    "ensemble": ("Join trained networks to one, whose estimates are the mean of theirs.", _ENSEMBLE),
    "export": ("Export a network to ONNX, which runs without torch.", _EXPORT),
    "extract": ("Extract the vocals of songs of yours.", _EXTRACT),
    "models": ("List the models; import other people's, fetch them, remove or show one.", _MODELS),
    "demo": ("Synthesise songs, train on them for a short while, evaluate, extract: no network needed.", [_JSON]),
    "live": ("Separate what is playing, with a stated delay.", _LIVE),
    "serve": ("Open a local web page that extracts vocals.", _SERVE),
    "doctor": ("Check that everything needed is here and works.", [_JSON]),
}
"""What each command does, and its options: flags, destination (or that of the flag's name), how it is read, help.

A list among the options holds those of which only one can be given.
"""

_EPILOG = """\
Without a command the menu opens. Exit status: 0 done, 1 something failed, 2 usage, 130 stopped by Ctrl-C.
Results go to stdout, progress and messages to stderr. MUSDB_PATH names a local folder with MUSDB18; SOX_PATH and
FFMPEG_PATH name those programs' folders when they are not on the PATH."""


def parse(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the command's name and the options that were given; print usage and exit with 2 if they make no sense.

    >>> parse(["train", "--mixtures", "2000", "--resume"])
    ('train', {'maximum_number_of_mixtures': 2000, 'resume': True})
    """
    parser = build_parser()
    namespace, unknown = parser.parse_known_args(arguments)
    options = vars(namespace)
    command, error = options.pop("command", ""), options.pop("error", parser.error)
    if unknown:
        error(f"unrecognized arguments: {' '.join(unknown)}")
    if not command:
        error(f"no command was given; there are {', '.join(_COMMANDS)}")
    if "estimates_folder" in options:
        names = {flags: name or flags[2:].replace("-", "_") for flags, name, *_ in _EVALUATE}
        if idle := ", ".join(flag for flag in _ONLY_FOR_MODELS if names[flag] in options):
            error(f"--estimates scores what is there already; {idle} would change nothing")
    if command == "export" and "site_folder" not in options:
        if "output_path" not in options or len(options["models"]) > 1:
            error("export takes one model and -o, or --site and any number of models")
    elif command == "export" and "streaming" in options:
        error("--streaming belongs to -o")
    if "changed_data" in options and "resume" not in options:
        error("--changed-data is for --resume; a new training takes the songs as they are")
    preset = options.get("preset")
    if "maximum_number_of_mixtures" in options and preset is not None and preset.training.n_mixtures is None:
        error(f"{preset.name} mixes anew in every epoch and takes no --mixtures; --epochs and --batches limit it")
    if command == "extract":
        if not options.get("songs") and not {"list_models", "list_path", "merge_manifests"} & options.keys():
            error("extract needs a song or a folder")
        fields = {field.name for field in dataclasses.fields(ExtractionSettings)} & options.keys()
        if fields:
            options["settings"] = ExtractionSettings(**{name: options.pop(name) for name in fields})
    idle_alone = {"cluster", "gpu_share", "price_per_core_hour"} & options.keys()
    if command == "evaluate" and "engine" not in options and idle_alone:
        error("--address, --gpu-share and --price-per-core-hour belong to --engine")
    if "shard" in options and len([*options.get("models", []), *options.get("preset_names", [])]) > 1:
        error("--shard scores one model; compare when all shards are done")
    if command == "models":
        action = options["action"]
        for name, actions in _OF_ACTIONS.items():
            if name in options and action not in actions:
                error(f"models {action} takes no {name.replace('_', '-')}")
        if action in _ACTIONS and "what" not in options:
            error(f"models {action} needs the {'path' if action == 'import' else 'name'} of a model")
    return command, options


class _Parser(argparse.ArgumentParser):
    """A parser that answers what it does not understand in two lines, and with what was probably meant."""

    def error(self, message: str) -> NoReturn:
        choice = r"invalid choice: '([\w.-]+)' \(choose from (.*)\)"
        if unknown := re.search(rf"^unrecognized arguments: (--[\w-]+)|{choice}", message):
            word = unknown[1] or unknown[2]
            known = re.findall(r"[\w.-]+", unknown[3]) if unknown[3] else [*self._option_string_actions]
            close = difflib.get_close_matches(word, known, n=1)
            message += f". Did you mean {close[0]}?" if close else ""
        self.exit(2, f"{self.prog}: {message}\nusage: {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help, the version or a complaint; argparse itself passes over a stream that takes nothing."""
        (file or sys.stderr).write(message)


def build_parser() -> argparse.ArgumentParser:
    shared: dict[str, Any] = {"argument_default": argparse.SUPPRESS, "allow_abbrev": False}
    parser = _Parser(
        prog="vocal-extraction",
        description="Extract the vocals of songs; train and evaluate the networks that do it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **shared,
    )
    parser.add_argument("--version", action="version", version=f"vocal-extraction {__version__}")
    parser.add_argument("--traceback", action="store_true", help="with any command: show where an internal error arose")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (description, options) in _COMMANDS.items():
        command = commands.add_parser(name, help=description, description=description, **shared)
        command.set_defaults(error=command.error)
        _add(command, options)
    return parser


def _add(parser: argparse._ActionsContainer, options: list[Any]) -> None:
    for option in options:
        if isinstance(option, list):
            _add(parser.add_mutually_exclusive_group(), option)
        else:
            flags, name, settings, description = option
            parser.add_argument(*flags.split(), help=description, **settings, **({"dest": name} if name else {}))
