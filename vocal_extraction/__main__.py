"""The command line: ``vocal-extraction``, which is ``python main.py`` in a checkout and ``python -m vocal_extraction``.

Without arguments it opens the menu; ``--help`` lists the commands.
Exit status: 0 done, 1 something failed (the message on stderr says what to do), 2 usage, 130 stopped by Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence

from vocal_extraction.atomic_files import sentence_of
from vocal_extraction.command_line.programs import put_programs_on_path
from vocal_extraction.errors import VocalExtractionError


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
        from vocal_extraction.command_line.menu import run_menu

        return run_menu()
    from vocal_extraction.command_line.commands import COMMANDS
    from vocal_extraction.command_line.parser import parse

    command, options = parse(arguments)
    return COMMANDS[command](**options)


if __name__ == "__main__":
    sys.exit(main())
