"""Standard streams that are closed, full, gone, or of an encoding that lacks a character end no command."""

import contextlib
import io
import os
import sys


class _MessageStream(io.TextIOWrapper):
    """A text stream for progress and messages: what cannot be written is dropped, so that the work goes on."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def prepare_streams() -> None:
    """Let stdin, stdout and stderr take any character, and open the null device for one that is closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = open(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8")  # noqa: SIM115 - open to the end
            setattr(sys, name, null)
    if isinstance(sys.stdin, io.TextIOWrapper):  # what is typed are names of files
        with contextlib.suppress(io.UnsupportedOperation):  # it has been read from
            sys.stdin.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if type(sys.stderr) is io.TextIOWrapper and sys.stderr is sys.__stderr__:
        stderr, encoding = sys.stderr, sys.stderr.encoding
        sys.stderr = _MessageStream(stderr.detach(), encoding=encoding, errors="backslashreplace", line_buffering=True)
        sys.__stderr__ = sys.stderr  # type: ignore[misc] # the old object is empty now


def discard_stdout_if_broken() -> None:
    """Send to the null device what stdout cannot take, so that nothing complains while Python shuts down."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
