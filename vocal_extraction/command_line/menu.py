"""The menu: asks, calls and prints.

The numbers are the specification's and never move; whatever came later has a letter. A choice that fails says why and
leads back here. The answers may come from a pipe; its end means the same as ``4``.
"""

import contextlib
import dataclasses
import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from vocal_extraction.atomic_files import sentence_of
from vocal_extraction.command_line import commands
from vocal_extraction.errors import VocalExtractionError
from vocal_extraction.settings import PRETRAINED_FOLDER

PRETRAINED_MODEL = PRETRAINED_FOLDER / "best.model.pth"
"""What choice 3 evaluates."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One line of the menu."""

    key: str
    label: str
    act: Callable[[], object]


def run_menu() -> int:
    """Show the menu until it is left; return the exit status, 0."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a file name need not be UTF-8
    choices = {choice.key: choice for choice in _choices()}
    while True:
        print(_menu_text(choices))
        answer = _ask("Your choice: ")
        if answer is None or answer == "4":
            print("Goodbye.")
            return 0
        if answer.lower() in choices:
            _perform(choices[answer.lower()])
        else:
            print(f"{answer!r} is not a choice. Type one of {', '.join(choices)}.")


def _choices() -> list[Choice]:
    return [
        Choice("1", "Train MaskInference model", commands.train),
        Choice("2", "Evaluate model with test set", commands.evaluate),
        Choice("3", "Evaluate with pretrained model", lambda: commands.evaluate(models=[PRETRAINED_MODEL])),
        Choice("4", "Exit", lambda: None),
        Choice("e", "Extract the vocals of a song of yours", _extract),
        Choice("w", "Web page: the same, with the mouse", commands.serve),
        Choice("d", "Doctor: is everything here that is needed?", commands.doctor),
    ]


def _menu_text(choices: dict[str, Choice]) -> str:
    lines = [f"  {choice.key}. {choice.label}" for choice in choices.values()]
    return "\n".join(["", "Vocal extraction", *lines])


def _ask(question: str) -> str | None:
    """Return the answer without blanks around it, or None at the end of the input."""
    if sys.stdin is None:  # the caller closed it
        return None
    try:
        return input(question).strip()
    except EOFError:
        print()
        return None


def _perform(choice: Choice) -> None:
    """Do what was chosen; a failure or Ctrl-C ends the choice, not the menu."""
    try:
        choice.act()
    except VocalExtractionError as error:
        print(f"Error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"Error: {sentence_of(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped. Back to the menu; Ctrl-C once more leaves.", file=sys.stderr)


def _extract() -> None:
    while answer := _ask("Song or folder (empty: back to the menu): "):
        song = _existing(answer)
        if song is not None:
            commands.extract(songs=[song])
            return
        print(f"There is no {answer!r}. Type the path of a song, or drop its file onto this window.")


def _existing(answer: str) -> Path | None:
    """Return the path that `answer` means; terminals quote or escape the name of a file that is dropped onto them."""
    spellings = [answer]
    with contextlib.suppress(ValueError):  # an apostrophe in a name is no quotation
        spellings += shlex.split(answer)[:1]
    for spelling in spellings:
        # A name may be too long for any file, or begin with the ~ of a user that nobody knows.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            path = Path(spelling).expanduser()
            if path.exists():
                return path
    return None
