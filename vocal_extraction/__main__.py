"""The command line: ``vocal-extraction``, which is ``python main.py`` in a checkout and ``python -m vocal_extraction``.

Without arguments it opens the menu; ``--help`` lists the commands.
Exit status: 0 done, 1 something failed (the message on stderr says what to do), 2 usage, 130 stopped by Ctrl-C.
"""

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence

from vocal_extraction import __version__
from vocal_extraction.atomic_files import sentence_of
from vocal_extraction.command_line.programs import put_programs_on_path
from vocal_extraction.command_line.streams import discard_stdout_if_broken, prepare_streams
from vocal_extraction.errors import VocalExtractionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the program's own) name, or the menu; return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    prepare_streams()
    put_programs_on_path()
    try:
        try:
            if not (typed := [each for each in arguments if each != "--traceback"]):
                from vocal_extraction.command_line.menu import run_menu

                return run_menu()
            from vocal_extraction.command_line.commands import COMMANDS, explained
            from vocal_extraction.command_line.parser import parse

            command, options = parse(typed)
            with explained(command, options):
                return COMMANDS[command](**options)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has gone
        return 1
    except (VocalExtractionError, OSError) as error:
        print(f"Error: {sentence_of(error)}", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001 - a bug of this program
        print(_internal_error(error, arguments), file=sys.stderr)
        return 1
    finally:
        discard_stdout_if_broken()


def _internal_error(error: Exception, arguments: Sequence[str]) -> str:
    """Write the traceback to a log file; return the sentence that names it, after the traceback itself if asked for."""
    text = "".join(traceback.format_exception(error))
    system = f"vocal-extraction {__version__}, Python {platform.python_version()}, {platform.platform()}"
    number, log = tempfile.mkstemp(prefix="vocal-extraction-", suffix=".log")
    with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{system}\n{' '.join(arguments)}\n\n{text}")
    shown = text if "--traceback" in arguments else ""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return f"{shown}Internal error ({reason}). This is a bug: please report it, with the file {log}."


if __name__ == "__main__":
    sys.exit(main())
