"""``python -m benchmarks [NAME ...]``: measure, and print one table with the date and the machine."""

import argparse
import datetime
import importlib
import os
import platform
from pathlib import Path

from vocal_extraction.reports.tables import text_table

NAMES = ("evaluation", "extraction", "mixing", "training")


def machine() -> str:
    """Name the processor, the number of cores and the system."""
    processor = platform.processor() or platform.machine()
    cpu_facts = Path("/proc/cpuinfo")
    if cpu_facts.is_file():
        models = [line.split(":")[1].strip() for line in cpu_facts.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    return f"{os.cpu_count()} cores, {processor}, {platform.system()}, Python {platform.python_version()}"


def main() -> None:
    """Print a row for each measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; all if none is named")
    names = parser.parse_args().names or NAMES
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    lines, notes = [], []
    for name in names:
        for row in importlib.import_module(f"benchmarks.{name}").rows():
            lines.append([row.what, f"{row.this_s:.3g} s", f"{row.reference_s:.3g} s", f"{row.factor:.1f}"])
            notes += [f"- {row.what}: {note}" for note in row.notes]
    print(f"{datetime.date.today().isoformat()}, {machine()}")
    print(text_table(["what", "this", "reference", "ratio"], lines))
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()
