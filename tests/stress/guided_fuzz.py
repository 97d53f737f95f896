"""``python -m stress.guided_fuzz``: inputs that coverage guides, through atheris (libFuzzer), where it is installed.

Hypothesis turns libFuzzer's bytes into the same inputs that it draws itself, so there is one description of each; the
package is instrumented, so that an input that reaches a new line is kept and varied.
"""

import argparse
import datetime
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.__main__ import machine
from stress.fuzz import SEED, TARGETS, trial

_PACKAGE = ["vocal_extraction"]
_LARGEST_INPUT = 2_048
_PATIENCE_S = 900.0


def _guide(name: str, n_runs: int, counter: Path) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=_PACKAGE):
        import main  # noqa: F401 - and what it imports

    from stress.inputs import scratch_folder

    with scratch_folder() as folder:
        test, count = trial(TARGETS[name], folder, n_inputs=1)
        feed = test.hypothesis.fuzz_one_input  # type: ignore[attr-defined]

        def one(data: bytes) -> None:
            feed(data)
            counter.write_text(str(count[0]))

        limits = [f"-runs={n_runs}", f"-seed={SEED}", f"-max_len={_LARGEST_INPUT}", "-len_control=0", "-timeout=60"]
        with atheris.instrument_imports(include=_PACKAGE):
            one(b"")  # imports what the target needs
        atheris.Setup([sys.argv[0], *limits], one)
        atheris.Fuzz()


def guided(name: str, *, n_runs: int) -> tuple[int, str]:
    """Fuzz one target in a process of its own; return how many inputs it took, and what was said if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        counter = Path(folder) / "count"
        command = [sys.executable, "-m", "stress.guided_fuzz", name, "--runs", str(n_runs), "--count", str(counter)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
        n_taken = int(counter.read_text() or 0) if counter.exists() else 0
    return n_taken, "" if done.returncode == 0 else done.stderr[-3_000:]


def main() -> int:
    """Fuzz every target that has guided inputs."""
    parser = argparse.ArgumentParser(prog="python -m stress.guided_fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=list(TARGETS))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (it has no build for some Pythons and systems): no guided inputs were tried.")
        return 0
    if options.count is not None:
        _guide(options.target, options.runs, options.count)
    print(f"{datetime.date.today().isoformat()}, {machine()}, seed {SEED}")
    n_all, n_failed = 0, 0
    for name, target in TARGETS.items():
        if not target.n_guided or options.target not in (None, name):
            continue
        started = time.monotonic()
        n_taken, failure = guided(name, n_runs=options.runs or target.n_guided)
        n_all, n_failed = n_all + n_taken, n_failed + bool(failure)
        verdict = f"FAILED\n{failure}" if failure else "no failure"
        print(f"{name:<20} {n_taken:>8} inputs in {time.monotonic() - started:6.1f} s, {verdict}", flush=True)
    print(f"{'in all':<20} {n_all:>8} guided inputs, {n_failed} targets failed")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
