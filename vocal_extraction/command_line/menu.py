"""The menu: asks, calls and prints.

The numbers are the specification's and never move; whatever came later has a letter. The answers may come from a pipe;
its end means the same as ``4``. Only a terminal is asked more than what to do.
"""

import contextlib
import functools
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vocal_extraction.atomic_files import sentence_of
from vocal_extraction.command_line.commands import run_command
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.presets import PRESETS, SPECIFIED, find_preset
from vocal_extraction.settings import CHECKPOINT_FOLDER, DATASET_FOLDER, PRETRAINED_FOLDER

PRETRAINED_MODEL = PRETRAINED_FOLDER / "best.model.pth"  # what choice 3 evaluates


def run_menu() -> int:
    """Show the menu until it is left; return the exit status, 0."""
    _edit_lines()
    choices = _choices()
    while True:
        print("\n".join(["", "Vocal extraction", *(f"  {key}. {label}" for key, (label, _) in choices.items())]))
        try:
            answer = _ask("Your choice: ")
        except EOFError:
            answer = "4"
        if answer == "4":
            print("Goodbye.")
            return 0
        if answer.lower() in choices:
            _perform(choices[answer.lower()][1])
        else:
            print(f"{answer!r} is not a choice. Type one of {', '.join(choices)}.")


def _choices() -> dict[str, tuple[str, Callable[[], object]]]:
    """Return the label and the action of each choice, by the key that is typed."""
    pretrained = functools.partial(run_command, "evaluate", models=[PRETRAINED_MODEL])
    return {
        "1": ("Train MaskInference model", _train),
        "2": ("Evaluate model with test set", functools.partial(run_command, "evaluate")),
        "3": ("Evaluate with pretrained model", pretrained),
        "4": ("Exit", lambda: None),
        "e": ("Extract the vocals of songs of yours", _extract),
        "l": ("Live: play on without the vocals, while it sounds", functools.partial(run_command, "live")),
        "w": ("Web page: the same, with the mouse", functools.partial(run_command, "serve")),
        "m": ("Models: those that are here, and other people's to import", _models),
        "d": ("Doctor: is everything here that is needed?", functools.partial(run_command, "doctor")),
    }


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _edit_lines() -> None:
    """Give a terminal's answers editing, a history and completed paths, where Python has readline."""
    if not _is_terminal():
        return
    with contextlib.suppress(ImportError):
        import readline

        readline.set_completer_delims("")  # the line is one path, which may have blanks
        readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")


def _ask(question: str) -> str:
    """Return the answer without blanks around it; an EOFError at the end of the input, with the line ended."""
    try:
        return input(question).strip()
    except EOFError:
        print()
        raise


def _perform(act: Callable[[], object]) -> None:
    """Do what was chosen; a failure, Ctrl-C or Ctrl-D at a question ends the choice, not the menu."""
    try:
        act()
    except EOFError:
        pass
    except (VocalExtractionError, OSError) as error:
        print(f"Error: {sentence_of(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped. Back to the menu; Ctrl-C once more leaves.", file=sys.stderr)


def _train() -> None:
    """Train; first ask a person at a terminal what, on which songs and for how long."""
    if not _is_terminal():
        run_command("train")
        return
    options: dict[str, Any] = {}
    history = CHECKPOINT_FOLDER / "history.jsonl"
    n_done = len(history.read_bytes().splitlines()) if history.exists() else 0
    question = f"A training of {n_done} epochs lies in {CHECKPOINT_FOLDER}. Go on with it?"
    if 0 < n_done < SPECIFIED.training.n_epochs and _agrees(question):
        options["resume"] = True
        print("Answer the rest as when it began; only the number of epochs may be another.")
    if not (DATASET_FOLDER / "train").is_dir():
        place = os.environ.get("MUSDB_PATH") or "download"
        print("MUSDB18: name its folder, or download the sample of 7 s a song: 140 MB, prepared 1.7 GB, 5 minutes.")
        options["musdb_path"] = _ask_until_read("Folder", place, _folder)
    print(f"With {SPECIFIED.name} a training takes about 20 minutes on two cores, with the other presets hours.")
    question = f"Preset, one of {', '.join(PRESETS)}, or a .toml file"
    options["preset"] = _ask_until_read(question, SPECIFIED.name, find_preset)
    training = (options["preset"] or SPECIFIED).training
    if training.n_mixtures is not None:
        name = "maximum_number_of_mixtures"
        options[name] = _ask_until_read("Mixtures to draw from", str(training.n_mixtures), _positive)
    options["n_epochs"] = _ask_until_read("Epochs", str(training.n_epochs), _positive)
    if _agrees(f"Checkpoints go to {CHECKPOINT_FOLDER}; Ctrl-C stops, and choice 1 then goes on. Start?"):
        run_command("train", **{name: value for name, value in options.items() if value is not None})


def _agrees(question: str, default: str = "yes") -> bool:
    while True:
        answer = (_ask(f"{question} [{'Y/n' if default == 'yes' else 'y/N'}] ") or default).lower()
        if answer in ("y", "yes", "n", "no"):
            return answer.startswith("y")
        print(f"{answer!r} is neither yes nor no.")


def _ask_until_read(question: str, default: str, read: Callable[[str], Any]) -> Any:
    """Ask until `read` takes the answer, and return what it made of it; None: the default is taken."""
    while answer := _ask(f"{question} [{default}]: "):
        with contextlib.suppress(KeyError, ValueError):
            return read(answer)
        print(f"{answer!r} does not fit. Type another, or Enter for {default}.")
    return None


def _positive(answer: str) -> int:
    if not 0 < (number := int(answer)) <= 10**6:
        raise ValueError(answer)
    return number


def _folder(answer: str) -> Path:
    found, _ = _existing(answer)
    if len(found) != 1 or not found[0].is_dir():
        raise ValueError(answer)
    return found[0]


def _extract() -> None:
    while answer := _ask("Songs or folders, as many as you like (empty: back to the menu): "):
        songs, missing = _existing(answer)
        if not missing:
            run_command("extract", songs=songs, **_model_options())
            return
        names = ", ".join(map(repr, missing))
        print(f"There is no {names}. Type the path of a song, or drop files onto this window.")


def _model_options() -> dict[str, Any]:
    """Ask a person at a terminal for a model where there are others than those that ship."""
    from vocal_extraction.checkpointing import default_checkpoint, model_name, named_checkpoints, shipped_checkpoints

    names = {name: name for name in named_checkpoints()}
    if not _is_terminal() or names.keys() == shipped_checkpoints().keys():
        return {}
    question, default = f"Model, one of {', '.join(names)}", model_name(default_checkpoint())
    return {"preset_name": _ask_until_read(question, default, names.__getitem__)}


def _models() -> None:
    """List the models, and import or fetch what a person at a terminal names."""
    run_command("models")
    if not _is_terminal() or not (answer := _ask("Import a file or folder, or fetch by name (empty: back): ")):
        return
    paths, missing = _existing(answer)
    if not missing:
        run_command("models", action="import", what=str(paths[0]))
        return
    from vocal_extraction.model_library import LicenceError

    try:
        run_command("models", action="fetch", what=answer)
    except LicenceError:
        if _agrees("Do you accept this licence?", "no"):
            run_command("models", action="fetch", what=answer, accept_licence=True)


def _path_of(name: str) -> Path:
    """Return the path that a name means: some terminals write ``file://`` before it, and a ~ may be no user's."""
    return Path(os.path.expanduser(url2pathname(urlsplit(name).path) if name.startswith("file://") else name))  # noqa: PTH111


def _existing(answer: str) -> tuple[list[Path], list[str]]:
    """Return the paths that `answer` means, quoted or escaped as by terminals, and names of what does not exist."""
    readings = [[answer]]
    with contextlib.suppress(ValueError):  # an apostrophe in a name is no quotation
        readings.append(shlex.split(answer))
    readings.append(answer.split())
    found = [{name: _path_of(name) for name in names} for names in readings if names]
    # Unlike Path's own, this takes a name that is too long for any file.
    missing = [[name for name, path in paths.items() if not os.path.exists(path)] for paths in found]  # noqa: PTH110
    best = min(range(len(found)), key=lambda i: len(missing[i]) / len(found[i]))
    return list(found[best].values()), missing[best]
