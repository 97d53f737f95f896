"""One function a command: it imports the function that does the work, calls it and prints its result on stdout.

Each takes the options that were typed as keyword arguments and returns the exit status.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.settings import CHECKPOINT_FOLDER, EXTRACTION_FOLDER, IS_CHECKOUT


class MissingPartError(VocalExtractionError):
    """A command needs packages that are not installed."""


_KEPT = {  # what is kept after Ctrl-C, by command; `train` has a message of its own
    "prepare": "Songs that are prepared stay.",
    "evaluate": "Songs that are scored stay.",
    "extract": "Songs that are done stay.",
}


@contextlib.contextmanager
def explained(name: str, options: dict[str, Any]) -> Iterator[None]:
    """Take the folder of imported models from a command's options; explain missing libraries and what Ctrl-C leaves."""
    if (folder := options.pop("models_folder", None)) is not None:
        os.environ["VOCAL_EXTRACTION_MODELS"] = str(folder.absolute())  # for processes that are started, too
    try:
        yield
    except KeyboardInterrupt:
        if kept := _KEPT.get(name):
            print(f"\n{kept} The same command or choice goes on with the rest.", file=sys.stderr)
        raise
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("vocal_extraction"):
            raise
        extra, target = {"serve": ("web", "serve"), "live": ("live", "setup")}.get(name, ("train", "setup"))
        extra = "torch" if error.name == "torch" and name in ("extract", "serve", "live") else extra
        remedy = f"make {target}" if IS_CHECKOUT else f"pip install 'vocal-extraction[{extra}]'"
        remedy = "pip install 'vocal-extraction[ray]'" if error.name == "ray" else remedy
        message = f"{name} needs the module {error.name!r}, which is missing. Install it: {remedy}"
        raise MissingPartError(message) from error


def run_command(name: str, /, **options: Any) -> int:
    """Run a command by its name; what ends it is `explained`."""
    with explained(name, options):
        return COMMANDS[name](**options)


def _show(record: Any, text: Any, *, as_json: bool) -> int:
    """Print what came of a command, as JSON if that was asked for; return 0."""
    print(json.dumps(record) if as_json else text)
    return 0


def prepare(*, as_json: bool = False, **options: Any) -> int:
    from vocal_extraction.musdb_preparation import prepare_musdb

    n_songs = prepare_musdb(**options)
    counts = ", ".join(f"{count} {subset}" for subset, count in n_songs.items())
    return _show(n_songs, f"Prepared songs: {counts}", as_json=as_json)


def train(*, checkpoint_folder: Path = CHECKPOINT_FOLDER, as_json: bool = False, **options: Any) -> int:
    from vocal_extraction.training import train_model

    is_first_process = os.environ.get("RANK", "0") == "0"  # of those that torchrun started
    started = time.time() - 1  # file systems have coarse clocks
    try:
        checkpoint = train_model(checkpoint_folder=checkpoint_folder, **options)
    except KeyboardInterrupt:
        if is_first_process:
            latest, typed = checkpoint_folder / "latest.model.pth", sys.argv[1:]
            again = shlex.join(["vocal-extraction", *typed]) if typed else "choice 1 of the menu"
            if options.get("resume") or (latest.exists() and latest.stat().st_mtime >= started):
                again += " --resume" if typed and "--resume" not in typed else ""
                kept = f"The last epoch that ended is in {checkpoint_folder}."
            else:
                kept = "No epoch has ended yet. Songs that are prepared stay."
            print(f"\n{kept} This goes on: {again}", file=sys.stderr)
        raise
    if is_first_process:
        _show({"checkpoint": str(checkpoint)}, f"Best checkpoint: {checkpoint}", as_json=as_json)
    return 0


def evaluate(
    *,
    models: Sequence[Path] = (),
    preset_names: Sequence[str] = (),
    estimates_folder: Path | None = None,
    as_json: bool = False,
    **options: Any,
) -> int:
    from vocal_extraction.checkpointing import named_checkpoint
    from vocal_extraction.evaluation import compare_models, evaluate_estimates, evaluate_model

    if "engine" in options:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # by which clusters take machines back
    models = [*map(named_checkpoint, preset_names), *models]
    options["show"] = not as_json
    if estimates_folder is not None:
        summary = evaluate_estimates(estimates_folder, **options).summary
    elif len(models) > 1:
        summary = compare_models(models, **options)
    else:
        summary = evaluate_model(*models, **options).summary
    if as_json:
        print(json.dumps(summary))
    return 0


def ensemble(*, as_json: bool = False, **options: Any) -> int:
    from vocal_extraction.checkpointing.joining import join_checkpoints

    checkpoint = join_checkpoints(**options)
    return _show({"checkpoint": str(checkpoint)}, f"Joined: {checkpoint}", as_json=as_json)


def export(*, models: Sequence[str], site_folder: Path | None = None, as_json: bool = False, **options: Any) -> int:
    from vocal_extraction.exporting import export_model
    from vocal_extraction.web_page.static_site import export_site

    path = export_model(*models, **options) if site_folder is None else export_site(models, site_folder, **options)
    return _show({"model": str(path)}, f"Exported: {path}", as_json=as_json)


def models(*, action: str = "list", what: str = "", as_json: bool = False, **options: Any) -> int:
    from vocal_extraction import model_library
    from vocal_extraction.checkpointing import model_name
    from vocal_extraction.reports.tables import text_table

    if action == "list":
        rows = model_library.models_table(**options)
        cells = [[_cell(value) for value in row.values()] for row in rows]
        return _show(rows, text_table([name.replace("_", " ") for name in rows[0]], cells), as_json=as_json)
    if action == "show":
        result, text = what, model_library.model_card(what)
    elif action == "remove":
        result = str(model_library.remove_model(what))
        text = f"Removed: {result}"
    else:
        add = model_library.import_model if action == "import" else model_library.fetch_model
        result = str(path := add(what, **options))
        text = f"{model_library.model_card(model_name(path))}\nUse it: extract SONG --preset {model_name(path)}"
    return _show({action: result, "text": text}, text, as_json=as_json)


def _cell(value: Any) -> str:
    return "" if value is None else ", ".join(value) if isinstance(value, tuple) else str(value)


def extract(
    *,
    songs: Sequence[str | Path] = (),
    list_models: bool = False,
    merge_manifests: bool = False,
    as_json: bool = False,
    **options: Any,
) -> int:
    """Extract the vocals of songs; one that fails does not keep the others from being done."""
    if list_models:
        from vocal_extraction.checkpointing import named_checkpoints

        models = {name: str(path) for name, path in named_checkpoints().items()}
        return _show(models, "\n".join(f"{name:<10} {path}" for name, path in models.items()), as_json=as_json)
    if merge_manifests:
        from vocal_extraction.extraction.catalogue import merge_manifests as merge

        return _print_totals(merge(options.get("output_folder", EXTRACTION_FOLDER)), as_json=as_json)
    if _OF_CATALOGUES & options.keys() or any("://" in str(each) for each in (*songs, options.get("output_folder"))):
        from vocal_extraction.extraction.catalogue import extract_catalogue

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # by which clusters take machines back
        totals = extract_catalogue(songs, results=None if as_json else sys.stdout, **options)
        return _print_totals(totals, as_json=as_json)
    from vocal_extraction.extraction import extract_songs

    # With `-o -` the audio itself goes to stdout.
    results = sys.stderr if str(options.get("output_folder")) == "-" else sys.stdout
    outcomes = extract_songs(songs, results=None if as_json else results, **options)
    if as_json:
        print(json.dumps([outcome.as_record() for outcome in outcomes]), file=results)
    failures = [f"{outcome.file}, {(outcome.reason or '').rstrip('.')}" for outcome in outcomes if outcome.failed]
    if len(outcomes) > 1:
        failed = f", {len(failures)} failed: {'; '.join(failures)}" if failures else ""
        print(f"{len(outcomes) - len(failures)} of {len(outcomes)} done{failed}.", file=sys.stderr)
    return 1 if failures else 0


_OF_CATALOGUES = {"list_path", "shard", "engine", "cluster", "gpu_share", "price_per_core_hour"}


def _print_totals(totals: Any, *, as_json: bool) -> int:
    _show(totals.as_record(), totals, as_json=as_json)
    return 1 if totals.failures else 0


def demo(**options: Any) -> int:
    from vocal_extraction.command_line.demo import run_demo

    return run_demo(**options)


def live(*, list_devices: bool = False, **options: Any) -> int:
    if list_devices:
        from vocal_extraction.live import devices

        print(devices.list_devices())
        return 0
    from vocal_extraction.live import run_live

    return run_live(**options)


def serve(**options: Any) -> int:
    print("Starting the web page ...", file=sys.stderr)
    from vocal_extraction.web_page.server import serve_page
    from vocal_extraction.web_page.uploads import Limits

    names = {field.name for field in dataclasses.fields(Limits)} & options.keys()
    serve_page(limits=Limits(**{name: options.pop(name) for name in names}), **options)
    return 0


def doctor(*, as_json: bool = False) -> int:
    from vocal_extraction.command_line.doctor import examine, print_findings

    return print_findings(examine(), as_json=as_json)


COMMANDS: dict[str, Callable[..., int]] = {  # commands by the name that is typed
    command.__name__: command
    for command in (prepare, train, evaluate, ensemble, export, extract, models, demo, live, serve, doctor)
}
