"""What ``python main.py ...`` understands.

Only what was typed reaches the function behind a command: a default lives in that function's signature or in
settings.py, never here. ``dest`` is the name of the function's keyword argument.
"""

import argparse
import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vocal_extraction import __version__
from vocal_extraction.errors import SettingsError
from vocal_extraction.output_formats import FORMATS
from vocal_extraction.preset_files import find_preset
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
    PRESETS,
    SPECIFIED,
    ExtractionSettings,
    Preset,
)

_EPILOG = """\
Without a command the menu opens. Exit status: 0 done, 1 something failed, 2 usage, 130 stopped by Ctrl-C.
Results go to stdout, progress and messages to stderr. MUSDB_PATH names a local folder with MUSDB18; SOX_PATH and
FFMPEG_PATH name those programs' folders when they are not on the PATH."""

_LARGEST = 2.0**62
_SHIPPING = [name for name in PRESETS if name != SPECIFIED.name]
_ONLY_FOR_MODELS = {"mask", "device", "models", "normalization", "preset_names", "save_estimates", "separator"}


def parse(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the command's name and the options that were given; print usage and exit with 2 if they make no sense.

    Examples
    --------
    >>> parse(["train", "--mixtures", "2000", "--resume"])
    ('train', {'maximum_number_of_mixtures': 2000, 'resume': True})
    """
    parser, parsers = _build_parsers()
    namespace, unknown = parser.parse_known_args(arguments)
    options = vars(namespace)
    command = options.pop("command")
    if unknown:
        parsers[command].error(f"unrecognized arguments: {' '.join(unknown)}")
    if complaint := _complaint(command, options):
        parsers[command].error(complaint)
    if command == "extract":
        options = _with_settings(options)
    return command, options


def _complaint(command: str, options: dict[str, Any]) -> str | None:
    """Say what is wrong with options that argparse finds right one by one."""
    if command == "extract" and not options.get("songs") and "list_models" not in options:
        return "extract needs a song or a folder"
    needless = sorted(_ONLY_FOR_MODELS & options.keys()) if "estimates_folder" in options else []
    if needless:
        flags = ", ".join(
            f"--{name.replace('_names', '').replace('models', 'model').replace('_', '-')}" for name in needless
        )
        return f"--estimates scores what is there already; {flags} would change nothing"
    return None


def _with_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Gather what belongs into ExtractionSettings, which checks it."""
    fields = {field.name for field in dataclasses.fields(ExtractionSettings)}
    given = {name: value for name, value in options.items() if name in fields}
    others = {name: value for name, value in options.items() if name not in fields}
    return {**others, "settings": ExtractionSettings(**given)} if given else others


class _Parser(argparse.ArgumentParser):
    """A parser that answers what it does not understand in two lines, and with what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Print `message` and how to get help; exit with 2."""
        choice = r"invalid choice: '([\w-]+)' \(choose from (.*)\)"
        if unknown := re.search(rf"^unrecognized arguments: (--[\w-]+)|{choice}", message):
            word = unknown[1] or unknown[2]
            known = re.findall(r"\w+", unknown[3]) if unknown[3] else [*self._option_string_actions]
            close = difflib.get_close_matches(word, known, n=1)
            message += f". Did you mean {close[0]}?" if close else ""
        self.exit(2, f"{self.prog}: {message}\nusage: {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    return _build_parsers()[0]


def _build_parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser of every command, and that of each by its name."""
    parser = _Parser(
        prog="vocal-extraction",
        description="Extract the vocals of songs; train and evaluate the networks that do it.",
        epilog=_EPILOG,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vocal-extraction {__version__}")
    parser.add_argument("--traceback", action="store_true", help="with any command: show where an internal error arose")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, description: str) -> _Parser:
        return commands.add_parser(
            name,
            help=description,
            description=description,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )

    _add_prepare(add("prepare", "Decode MUSDB18 into the dataset folder (train and evaluate do it by themselves)."))
    _add_train(add("train", "Train a network."))
    _add_evaluate(add("evaluate", "Score a network on the test songs."))
    _add_ensemble(add("ensemble", "Join trained networks of one kind to one whose masks are the mean of theirs."))
    _add_extract(add("extract", "Extract the vocals of songs of yours."))
    _add_json(add("demo", "Synthesise songs, train on them for a short while, evaluate, extract: no network needed."))
    _add_serve(add("serve", "Open a local web page that extracts vocals."))
    _add_json(add("doctor", "Check that everything needed is here and works."))
    return parser, commands.choices


def _number(kind: Callable[[str], float], minimum: float, maximum: float | None = None) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of the kind that is meant here") from None
        if not minimum <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be {minimum} or more, got {text}")
        if maximum is not None and value > maximum:
            raise argparse.ArgumentTypeError(f"must be {maximum} or less, got {text[:40]}")
        return value

    return read


_count = _number(int, 1)
_mixtures = _number(int, 1, MOST_MIXTURES)
_mixtures_or_none = _number(int, 0, MOST_MIXTURES)
_epochs = _number(int, 1, MOST_EPOCHS)
_seed = _number(int, 0, LARGEST_SEED)
_workers = _number(int, 1, MOST_WORKERS)
_workers_or_none = _number(int, 0, MOST_WORKERS)
_port = _number(int, 1, LARGEST_PORT)


def _scaled(factor: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = factor * _number(float, 0)(text)
        if not value < _LARGEST:
            raise argparse.ArgumentTypeError(f"is beyond what any machine has: {text[:40]}")
        return value

    return read


def _gigabytes(text: str) -> int:
    return round(_scaled(10**9)(text))


def _megabytes(text: str) -> int:
    return round(_scaled(2**20)(text))


def _minutes(text: str) -> float:
    return _scaled(60)(text)


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


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the result as JSON")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--musdb-path", type=Path, metavar="DIR", help="MUSDB18 on this machine (default: $MUSDB_PATH)")
    parser.add_argument(
        "--dataset", dest="dataset_folder", type=Path, metavar="DIR", help=f"prepared stems (default: {DATASET_FOLDER})"
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="NAME", help="auto (the default), cpu, cuda, cuda:1, mps")


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--no-download", dest="download", action="store_false", help="fail rather than download")
    parser.add_argument("--jobs", dest="n_workers", type=_workers, metavar="N", help="songs decoded at the same time")
    _add_json(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument(
        "--tracks",
        nargs="+",
        metavar="DIR[:SOURCE][=WEIGHT]",
        help="folders of songs to train on instead; a song of weight 2 is drawn twice as often as others",
    )
    parser.add_argument(
        "--mixtures", dest="maximum_number_of_mixtures", type=_mixtures, metavar="N", help="mixtures to draw from"
    )
    parser.add_argument("--epochs", dest="n_epochs", type=_epochs, metavar="N", help="instead of the preset's")
    parser.add_argument("--batches", dest="n_batches", type=_mixtures, metavar="N", help="batches an epoch, likewise")
    parser.add_argument(
        "--validation",
        dest="n_validation_mixtures",
        type=_mixtures_or_none,
        metavar="N",
        help="validation mixtures, likewise; 0 validates on the whole songs",
    )
    parser.add_argument(
        "--preset", type=_preset, metavar="NAME", help=f"recipe: {', '.join(PRESETS)}, or a TOML file of yours"
    )
    parser.add_argument(
        "--checkpoints", dest="checkpoint_folder", type=Path, metavar="DIR", help=f"default: {CHECKPOINT_FOLDER}"
    )
    parser.add_argument("--seed", type=_seed, metavar="N", help="the same seed gives the same run")
    parser.add_argument("--start-from", type=Path, metavar="CHECKPOINT", help="weights to begin with")
    parser.add_argument("--resume", action="store_true", help="continue from the last completed epoch")
    parser.add_argument("--changed-data", action="store_true", help="resume although songs were added or removed")
    parser.add_argument(
        "--cache", dest="cache_bytes", type=_gigabytes, metavar="GB", help="keep mixtures, up to so many GB"
    )
    parser.add_argument("--workers", dest="n_workers", type=_workers_or_none, metavar="N", help="processes that mix")
    _add_device(parser)
    _add_json(parser)


def _add_model(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", dest="preset_name", choices=_SHIPPING, help="a model that ships")
    return which


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument(
        "--tracks", nargs="+", metavar="PATH", help="folders of songs with stems, in any layout, instead of --dataset"
    )
    parser.add_argument(
        "--preset", dest="preset_names", choices=_SHIPPING, action="append", help="a model that ships; several: compare"
    )
    parser.add_argument(
        "--model",
        dest="models",
        type=Path,
        action="append",
        metavar="PATH",
        help="a checkpoint; several: compare (default: checkpoints/best.model.pth)",
    )
    parser.add_argument(
        "--estimates", dest="estimates_folder", type=Path, metavar="DIR", help="score DIR/SONG/vocals.wav instead"
    )
    parser.add_argument("--subset", choices=("train", "valid", "test"), help="songs to score (default: test)")
    parser.add_argument("--limit", type=_count, metavar="N", help="only the first N songs")
    parser.add_argument(
        "--metrics", nargs="+", choices=("scale", "bsseval_v4", "leakage"), help="families of scores (default: all)"
    )
    parser.add_argument("--mask", choices=("soft", "binary"), help="binary: 1 where the mask is above a half")
    parser.add_argument("--oracles", action="store_true", help="also ideal masks: oracles")
    parser.add_argument("--baselines", action="store_true", help="also a random mask, REPET-SIM, 2DFT, HPSS")
    parser.add_argument("--save-estimates", action="store_true", help="keep the estimates as wavs")
    parser.add_argument("--separator", choices=("extraction", "nussl"), help="nussl: through its DeepMaskEstimation")
    parser.add_argument(
        "--normalization",
        choices=("stored", "song"),
        help="song: batch normalization by each song's own statistics, as the published figures were computed",
    )
    parser.add_argument(
        "-o", "--output", dest="output_folder", type=Path, metavar="DIR", help=f"default: {EVALUATION_FOLDER}"
    )
    parser.add_argument("--jobs", dest="n_jobs", type=_workers, metavar="N", help="songs scored at the same time")
    parser.add_argument("--overwrite", action="store_true", help="move another model's results in the folder aside")
    _add_device(parser)
    _add_json(parser)


def _add_ensemble(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="CHECKPOINT", help="two or more, trained apart")
    parser.add_argument("-o", "--output", dest="output_path", type=Path, required=True, metavar="PATH", help="where to")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    _add_json(parser)


def _add_extract(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("songs", nargs="*", metavar="SONG_OR_FOLDER", help="audio files or folders; - is stdin")
    which = _add_model(parser)
    which.add_argument(
        "--model", type=Path, metavar="PATH", help="a checkpoint of yours (default: the best that ships)"
    )
    parser.add_argument(
        "-o", "--output", dest="output_folder", metavar="DIR", help=f"default: {EXTRACTION_FOLDER}; - is stdout"
    )
    stems = parser.add_mutually_exclusive_group()
    stems.add_argument(
        "--stems",
        type=_names,
        metavar="NAMES",
        help="'all', or names with commas between (default: vocals and the rest)",
    )
    stems.add_argument("--without", type=_names, metavar="NAMES", help="the song without these sources, as one stem")
    parser.add_argument("--format", choices=list(FORMATS), help="default: wav16")
    parser.add_argument("--bitrate", dest="bitrate_kbps", type=_count, metavar="KBPS", help="of mp3, ogg and m4a")
    parser.add_argument("--output-template", metavar="TEXT", help="default: {folder}/{song}/{stem}.{ext}")
    parser.add_argument("--mask", choices=("soft", "binary"), help="binary: 1 where the mask is above a half")
    parser.add_argument("--phase", choices=("mixture", "griffin-lim"), help="default: the mixture's")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--track", metavar="N|LANGUAGE", help="of several audio tracks (default: as players choose)")
    parser.add_argument("--from", dest="from_s", type=_time, metavar="TIME", help="separate from here, as 1:10 or 70.5")
    parser.add_argument("--to", dest="to_s", type=_time, metavar="TIME", help="to here; outside, vocals are silent")
    parser.add_argument("--keep-partial", action="store_true", help="keep what decodes of a damaged file")
    parser.add_argument("--jobs", dest="n_jobs", type=_workers, metavar="N", help="songs at the same time")
    parser.add_argument("--list-models", action="store_true", help="list the models that ship, and stop")
    _add_device(parser)
    _add_json(parser)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", metavar="ADDRESS", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--port", type=_port, metavar="N", help="default: 7860, or a free one")
    parser.add_argument("--model", type=Path, metavar="PATH", help="offer this checkpoint before those that ship")
    parser.add_argument(
        "--token", metavar="TEXT", help="what clients must bring; made up for other addresses than this machine's"
    )
    parser.add_argument("--no-browser", dest="open_browser", action="store_false", help="do not start a browser")
    parser.add_argument("--upload-mb", dest="upload_bytes", type=_megabytes, metavar="MB", help="largest song file")
    parser.add_argument("--longest", dest="longest_s", type=_minutes, metavar="MIN", help="longest song, in minutes")
    parser.add_argument("--keep", dest="lifetime_s", type=_minutes, metavar="MIN", help="how long files are kept")
    parser.add_argument("--queue", dest="queue_length", type=_count, metavar="N", help="songs that may wait")
    _add_device(parser)
