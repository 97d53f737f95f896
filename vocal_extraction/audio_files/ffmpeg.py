"""Run ffmpeg, ffprobe and other programs: start, read or write, time out, quote their messages, end.

Files are named as ``file:PATH``, so that no name is taken for an option, a protocol or a pattern. A child that neither
reads nor writes for a while is ended: a damaged file must not hang a batch. Children have a session of their own, so
that Ctrl-C reaches this program alone, which then ends them.
"""

import contextlib
import errno
import fcntl
import os
import re
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any, Self

from vocal_extraction.errors import ExtractionError

STANDSTILL_S = 60.0  # how long a child may stand still before it is ended
_PIPE_BYTES = 2**20
_MESSAGE_BYTES = 2**16
_WRITE_FAILURE = re.compile(  # what ffmpeg says when what it wrote is not whole
    "Error (writing|closing|muxing)|No space left|File too large|quota exceeded|Input/output error|Broken pipe",
    re.IGNORECASE,
)
_DAMAGE = re.compile(r"\[mpeg(ts)? @ \S+ \[warning\] Packet corrupt \(stream = (?P<stream>\d+)|Lossless check failed")
"""Warnings that stand for an error: a packet or a checksum is wrong. A wav from a pipe has corrupt packets, too."""
_MARK = re.compile(r"^(\[.*\] )?\[(panic|fatal|error|warning)\] ", re.MULTILINE)
_PREFIX = re.compile(r"^(\[[^]]*\] +)*(Error while decoding stream \S+: |file:.*: (?=[^:]+$))?")


class ProgramError(ExtractionError):
    """A program is missing, stood still, or ended with an error."""


def input_arguments(path: Path | None) -> list[str]:
    """Return the arguments that make ffmpeg read `path`, or standard input if it is None.

    >>> input_arguments(Path("-a:b.mp3"))
    ['-protocol_whitelist', 'file,pipe', '-i', 'file:-a:b.mp3']
    """
    return ["-protocol_whitelist", "file,pipe", "-i", "pipe:0" if path is None else f"file:{path}"]


def message_lines(messages: str, *, stream: int | None = None, others: Collection[str] = ()) -> list[str]:
    """Return ffmpeg's messages, a line each, without the names of its parts and of the file.

    Marked warnings are dropped unless they report damage (to `stream`, if that is given), and so are the messages of
    decoders named in `others`.

    >>> message_lines("[mp3 @ 0x55] Header missing" + chr(10) + "Error while decoding stream #0:0: Invalid data")
    ['Header missing', 'Invalid data']
    """
    ignored, lines = tuple(f"[{name} @" for name in others), []
    is_kept = _MARK.search(messages) is None
    for line in messages.splitlines():
        if _MARK.match(line):  # the lines of one message after its first are not marked
            damage = _DAMAGE.search(line)
            is_damage = damage is not None and (stream is None or damage["stream"] in (None, str(stream)))
            is_kept = not line.startswith(ignored) and ("[warning]" not in line or is_damage)
        text = _PREFIX.sub("", line.strip())
        if is_kept and text and not text.startswith("Last message repeated"):
            lines.append(text)
    return lines


def last_line(messages: str) -> str:
    return (message_lines(messages) or ["no reason given"])[-1]


class Program:
    """A running program, in a ``with`` statement, whose output this process `reads` or whose input it `writes`."""

    def __init__(self, name: str, arguments: Sequence[str], *, reads: bool = False, writes: bool = False) -> None:
        self._name, self._writes = name, writes
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        try:
            stdin, stdout = (subprocess.PIPE if is_piped else None for is_piped in (writes, reads))
            pipes: dict[str, Any] = {"stdin": stdin, "stdout": stdout, "stderr": self._messages, "bufsize": 0}
            self._child: subprocess.Popen[Any] = subprocess.Popen([name, *arguments], start_new_session=True, **pipes)
        except OSError as error:
            self._messages.close()
            raise _not_started(name, error) from error
        pipe = self._child.stdout if reads else self._child.stdin if writes else None
        self._selector = selectors.DefaultSelector()
        self._file_number = -1
        if pipe is not None:
            self._file_number = pipe.fileno()
            os.set_blocking(self._file_number, False)
            if hasattr(fcntl, "F_SETPIPE_SZ"):  # programs that take turns less often wait less for each other
                with contextlib.suppress(OSError):
                    fcntl.fcntl(self._file_number, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            self._selector.register(self._file_number, selectors.EVENT_READ if reads else selectors.EVENT_WRITE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the child if it still runs, and leave nothing open."""
        if self._child.poll() is None:
            self._child.kill()
        self._selector.close()
        with contextlib.suppress(OSError):
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
        self._child.wait()
        self._messages.close()

    def read(self, *, wait_forever: bool = False) -> bytes:
        """Return the bytes that have arrived, at least one; none at the end."""
        self._wait(None if wait_forever else STANDSTILL_S)
        return os.read(self._file_number, _PIPE_BYTES)

    def write(self, data: memoryview) -> None:
        """Write all of `data`; a BrokenPipeError says that the program has ended, and `close` raises the reason."""
        while data:
            self._wait(STANDSTILL_S)
            data = data[os.write(self._file_number, data) :]

    def close(self) -> str:
        """Wait for the program to end by itself and return its messages.

        Raises OSError on a full disk, BrokenPipeError if its standard output has no reader any more, else ProgramError.
        """
        if self._child.stdin is not None:
            self._child.stdin.close()
        try:
            status = self._child.wait(STANDSTILL_S)
        except subprocess.TimeoutExpired as error:
            raise self._standstill() from error
        messages = self.messages()
        if status == -signal.SIGXFSZ:
            raise OSError(errno.EFBIG, "File too large")
        # On a full disk ffmpeg may write half a file, complain, and end with 0 all the same.
        if status != 0 or (self._writes and _WRITE_FAILURE.search(messages)):
            if "No space left on device" in messages or "File too large" in messages:
                raise OSError(errno.ENOSPC, "No space left on device")
            if "Broken pipe" in messages:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            reason = last_line(messages) if messages.strip() else f"it ended with status {status}"
            raise ProgramError(f"{self._name} failed: {reason.rstrip('.')}.")
        return messages

    def messages(self) -> str:
        """Return the last part of its standard error."""
        size = self._messages.seek(0, os.SEEK_END)
        self._messages.seek(max(0, size - _MESSAGE_BYTES))
        return self._messages.read().decode(errors="replace")

    def _wait(self, limit_s: float | None) -> None:
        if not self._selector.select(limit_s):
            raise self._standstill()

    def _standstill(self) -> ProgramError:
        self._child.kill()
        said = last_line(self.messages())
        return ProgramError(f"{self._name} stood still for {STANDSTILL_S:g} s and was ended: {said}.")


def _not_started(name: str, error: OSError) -> ProgramError:
    if not isinstance(error, FileNotFoundError):
        return ProgramError(f"{name} cannot be started ({error.strerror}).")
    package = "ffmpeg" if name == "ffprobe" else name
    return ProgramError(
        f"{name} was not found. Install it (apt-get install {package}, brew install {package}), or set "
        f"{package.upper()}_PATH to where it lies."
    )


class Ffmpeg(Program):
    """A running ffmpeg that says errors only; see `Program`."""

    def __init__(self, arguments: Sequence[str], *, reads: bool = False, writes: bool = False) -> None:
        super().__init__("ffmpeg", ["-nostdin", "-hide_banner", "-v", "error", *arguments], reads=reads, writes=writes)


def read_all(program: Program) -> bytes:
    """Return all that a program that `reads` writes until it ends by itself; see `Program.close` for what it raises."""
    with program:
        output = b"".join(iter(program.read, b""))
        program.close()
    return output
