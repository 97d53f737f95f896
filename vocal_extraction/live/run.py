"""The command ``live``: between audio devices, or from standard input to standard output."""

import contextlib
import itertools
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vocal_extraction.errors import SettingsError
from vocal_extraction.live.mixing import Mixer, parse_gains
from vocal_extraction.live.pcm import PcmInput, wav_header
from vocal_extraction.live.worker import Task

_MOST_LATE = 1e-3
_STATUS_EVERY_S = 0.5
_KEYS = "keys: o original, k karaoke, s vocals alone, q quit"


def run_live(
    audio: Sequence[str] = (),
    *,
    model: str | Path = "live",
    stem: str | None = None,
    gains: str | None = None,
    sample_rate: int | None = None,
    n_channels: int = 2,
    raw: bool = False,
    record: Path | None = None,
    input_device: str | None = None,
    output_device: str | None = None,
    n_ahead: int = 2,
) -> int:
    """Separate what is playing and play the wanted mix; return 1 if more than a thousandth of the blocks were late.

    `audio` is ['-'] for PCM from stdin to stdout, with `sample_rate` and `n_channels` (a wav says its own), `raw` or
    as a wav; nothing uses audio devices, with `n_ahead` blocks for separation to take. `stem` is played alone, or each
    with a gain, as ``vocals=-inf,other=0``. `record` is a folder for the stems.
    """
    mix: dict[str, Any] = {"gains_db": parse_gains(gains) if gains else {}, "solo": stem}
    named = {*mix["gains_db"], *([stem] if stem else [])}
    stems = ("all",) if named - {"vocals", "accompaniment", "other"} else None
    if audio and list(audio) != ["-"]:
        raise SettingsError(f"Live takes what is playing, or - for stdin, not {audio[0]!r}; extract takes files.")
    if audio:
        found = PcmInput(sys.stdin.buffer, sample_rate=sample_rate or 44_100, n_channels=n_channels)
        task = Task(str(model), found.sample_rate, found.n_channels, stems, record)
        return _filter(found, sys.stdout.buffer, task, mix, raw=raw)
    from vocal_extraction.live.devices import LiveSession

    task = Task(str(model), sample_rate, n_channels, stems, record)
    devices = _device(input_device), _device(output_device)
    with LiveSession(task, devices, n_ahead=n_ahead, **mix) as session:
        here_ms, devices_ms = (1000 * delay_s for delay_s in session.delays_s)
        behind = f"{here_ms + devices_ms:.0f} ms behind ({here_ms:.0f} here, {devices_ms:.0f} in the devices)"
        print(f"Live, {behind}. Ctrl-C ends it; {_KEYS}.", file=sys.stderr)
        _watch(session, behind)
    median, most = session.block_shares
    share = session.n_late / max(session.n_blocks, 1)
    print(
        f"\n{session.n_blocks} blocks of {1000 * session.n_samples / session.sample_rate:.0f} ms, "
        f"{session.n_late} late ({share:.2%}). Of its time a block took {median:.0%}, 99 of 100 at most {most:.0%}.",
        file=sys.stderr,
    )
    return 1 if share > _MOST_LATE else 0


def _watch(session: Any, behind: str) -> None:
    """Show how it goes and take keys, until Ctrl-C or 'q'."""
    with contextlib.suppress(KeyboardInterrupt), _keyboard() as key_within:
        while (key := key_within(_STATUS_EVERY_S)) != "q":
            session.check()
            session.mixer.choose(key)
            if sys.stderr.isatty():
                incoming_db, played_db = session.levels_db
                print(
                    f"\r{behind}, load {session.block_times()[0]:.0%}, {session.n_late} late of "
                    f"{session.n_blocks}, in {incoming_db:.0f} dB, out {played_db:.0f} dB\033[K",
                    end="",
                    file=sys.stderr,
                )


def _device(name: str | None) -> str | int | None:
    return int(name) if name and name.isdecimal() else name


@contextlib.contextmanager
def _keyboard() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits a number of seconds for a key and returns it, or ""; keys need no Enter meanwhile."""
    if not sys.stdin.isatty():

        def no_key(wait_s: float) -> str:
            time.sleep(wait_s)
            return ""

        yield no_key
        return
    import termios
    import tty

    def key_within(wait_s: float) -> str:
        return sys.stdin.read(1) if select.select([sys.stdin], [], [], wait_s)[0] else ""

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield key_within
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _filter(found: PcmInput, target: BinaryIO, task: Task, mix: dict[str, Any], *, raw: bool) -> int:
    """Separate all that a stream has, block by block as it arrives."""
    rate, n_channels, separating_s, n_samples = found.sample_rate, found.n_channels, 0.0, 0
    separator = task.separator()
    mixer, delay_ms = Mixer(separator.plan.names, rate, **mix), 1000 * separator.delay() / rate
    with task.recording(separator) as write:
        if not raw:
            target.write(wav_header(rate, n_channels))
        end = np.zeros((0, n_channels), np.float32)
        for block in itertools.chain(found.blocks(), [end]):
            start = time.perf_counter()
            separated = separator.process(block, last=block is end)
            separating_s, n_samples = separating_s + time.perf_counter() - start, n_samples + len(block)
            parts = np.stack(list(separated.values()))
            target.write(mixer.mix(parts, parts.sum(axis=0)).astype("<f4").tobytes())
            target.flush()
            write(separated)
    print(f"{n_samples / rate:.1f} s, {delay_ms:.0f} ms behind; separated in {separating_s:.1f} s.", file=sys.stderr)
    return 0
