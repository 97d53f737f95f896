"""ffmpeg as a child process that samples are read from or written to.

Programs are called with argument lists, files by ``file:`` and their path, so that no name can pass for an option, a
protocol or a pattern. A child that neither takes nor gives anything for a while is ended: a damaged file must not
hang a batch. Children have a session of their own, so that Ctrl-C reaches this program alone, which then ends them.
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
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from vocal_extraction.errors import ExtractionError

PATIENCE_S = 60.0
"""How long a child may stand still before it is ended."""
_PIPE_BYTES = 2**20
_REMEMBERED_BYTES = 4_000
_UNWRITTEN = re.compile(
    "Error (writing|closing|muxing)|No space left|File too large|quota exceeded|Input/output error|Broken pipe",
    re.IGNORECASE,
)
"""What ffmpeg says when what it wrote is not whole."""


class ProgramError(ExtractionError):
    """ffmpeg or ffprobe is missing, stood still, or ended with an error."""


def input_arguments(path: Path | None) -> list[str]:
    """Return the arguments that make ffmpeg read `path`, or standard input if it is None.

    >>> input_arguments(Path("-a:b.mp3"))
    ['-protocol_whitelist', 'file,pipe', '-i', 'file:-a:b.mp3']
    """
    return ["-protocol_whitelist", "file,pipe", "-i", "pipe:0" if path is None else f"file:{path}"]


def ask_ffprobe(arguments: Sequence[str]) -> tuple[str, str, int]:
    """Run ffprobe to its end and return its standard output, its messages and its exit status."""
    try:
        done = subprocess.run(
            ["ffprobe", "-v", "warning", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise _missing("ffprobe") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"ffprobe made nothing of it within {PATIENCE_S:.0f} s. The file may be damaged.") from error
    return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), done.returncode


def last_line(messages: str) -> str:
    """Return what ffmpeg said last, without the address of the part of it that spoke.

    >>> last_line("[mp3 @ 0x55] Header missing" + chr(10))
    'Header missing'
    """
    lines = [line for line in messages.splitlines() if line.strip()]
    line = lines[-1].strip() if lines else "no reason given"
    return line.partition("] ")[2] or line if line.startswith("[") else line


def _missing(program: str) -> ProgramError:
    return ProgramError(
        f"{program} was not found. Install it (apt-get install ffmpeg, brew install ffmpeg), or set FFMPEG_PATH to "
        "where it lies."
    )


def _widen(pipe: int) -> None:
    """Let a pipe hold more, where the system can: programs that take turns less often wait less for each other."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


class Ffmpeg:
    """A running ffmpeg with at most one pipe to this program; use it in a ``with`` statement.

    Parameters
    ----------
    arguments
        All behind the program's name.
    reads, writes
        Whether this program reads what ffmpeg writes to its standard output, or writes what ffmpeg reads. Where it does
        neither, ffmpeg has the standard input or output of this program.
    """

    def __init__(self, arguments: Sequence[str], *, reads: bool = False, writes: bool = False) -> None:
        self._writes = writes
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        try:
            self._child: subprocess.Popen[Any] = subprocess.Popen(
                ["ffmpeg", "-nostdin", "-hide_banner", "-v", "error", *arguments],
                stdin=subprocess.PIPE if writes else None,
                stdout=subprocess.PIPE if reads else None,
                stderr=self._messages,
                bufsize=0,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            self._messages.close()
            raise _missing("ffmpeg") from error
        pipe = self._child.stdout if reads else self._child.stdin if writes else None
        self._selector = selectors.DefaultSelector()
        self._file_number = -1
        if pipe is not None:
            self._file_number = pipe.fileno()
            os.set_blocking(self._file_number, False)
            _widen(self._file_number)
            self._selector.register(self._file_number, selectors.EVENT_READ if reads else selectors.EVENT_WRITE)

    def __enter__(self) -> "Ffmpeg":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def read(self, *, patiently: bool = False) -> bytes:
        """Return what has come, at least a byte; nothing at the end. `patiently` waits for ever."""
        self._wait(None if patiently else PATIENCE_S)
        return os.read(self._file_number, _PIPE_BYTES)

    def write(self, data: memoryview) -> None:
        """Write all of `data`.

        Raises
        ------
        BrokenPipeError
            If ffmpeg has ended; `close` tells why.
        """
        while data:
            self._wait(PATIENCE_S)
            data = data[os.write(self._file_number, data) :]

    def close(self) -> str:
        """Wait for ffmpeg to end by itself and return its messages.

        Raises
        ------
        OSError
            If the disk is full.
        BrokenPipeError
            If nobody reads its standard output any more.
        ProgramError
            If it failed for another reason.
        """
        if self._child.stdin is not None:
            self._child.stdin.close()
        try:
            status = self._child.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise self._standstill() from error
        messages = self._said()
        if status == -signal.SIGXFSZ:
            raise OSError(errno.EFBIG, "File too large")
        # On a full disk ffmpeg may write half a file, complain, and end with 0 all the same.
        if status != 0 or (self._writes and _UNWRITTEN.search(messages)):
            if "No space left on device" in messages or "File too large" in messages:
                raise OSError(errno.ENOSPC, "No space left on device")
            if "Broken pipe" in messages:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")
            raise ProgramError(f"ffmpeg failed: {last_line(messages)}.")
        return messages

    def _wait(self, limit_s: float | None) -> None:
        if not self._selector.select(limit_s):
            raise self._standstill()

    def _standstill(self) -> ProgramError:
        self._child.kill()
        return ProgramError(f"ffmpeg stood still for {PATIENCE_S:.0f} s and was ended: {last_line(self._said())}.")

    def _said(self) -> str:
        """Return the end of its messages."""
        size = self._messages.seek(0, os.SEEK_END)
        self._messages.seek(max(0, size - _REMEMBERED_BYTES))
        return self._messages.read().decode(errors="replace")
