"""Progress of long jobs on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

LINE_EVERY_S = 60.0

_Item = TypeVar("_Item")


def counted(items: Iterable[_Item], n_items: int, title: str, *, show: bool = True) -> Iterator[_Item]:
    """Yield songs as they are done, and show how many: a bar in a terminal, else a line a minute and one at the end.

    >>> list(counted(["a", "b"], 2, "reading", show=False))
    ['a', 'b']
    """
    if not show or not n_items or sys.stderr is None or sys.stderr.isatty():
        yield from tqdm(items, title, n_items, unit="song", disable=not (show and n_items), file=sys.stderr)
        return
    start = last = time.monotonic()
    for n_done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or n_done == n_items:
            last = now
            print(f"{title}: {n_done} of {n_items} songs in {now - start:.0f} s", file=sys.stderr)
