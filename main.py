"""Vocal extraction: the menu and the command line.

``python main.py`` opens the menu, ``python main.py --help`` lists the commands. From Python::

    from main import train_model, evaluate_model, create_model, extract_vocals

Those four are imported when they are asked for, so that the menu need not wait for torch and nussl.
Exit status: 0 done, 1 something failed (the message on stderr says what to do), 2 usage, 130 stopped by Ctrl-C.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from command_line.programs import put_programs_on_path
from files import sentence_of
from settings import VocalExtractionError

_ROOMS = {
    "train_model": "training",
    "evaluate_model": "evaluation",
    "create_model": "model",
    "extract_vocals": "extraction",
}


def __getattr__(name: str) -> Any:
    """Fetch one of the four functions from its room."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'main' has no attribute {name!r}")
    put_programs_on_path()
    return getattr(importlib.import_module(_ROOMS[name]), name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the program's own) name, or the menu; return the exit status."""
    put_programs_on_path()
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except VocalExtractionError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; what is still buffered must not complain while Python shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"Error: {sentence_of(error)}", file=sys.stderr)
        return 1


def _run(arguments: Sequence[str]) -> int:
    if not arguments:
        from command_line.menu import run_menu

        return run_menu()
    from command_line.commands import COMMANDS
    from command_line.parser import parse

    command, options = parse(arguments)
    return COMMANDS[command](**options)


if __name__ == "__main__":
    sys.exit(main())
