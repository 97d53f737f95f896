"""Measurements side by side with the libraries as they come; ``make bench`` runs them all.

Each module has ``rows()``, which measures on the machine at hand and returns what it found.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    """One task, done by this project and by the reference."""

    what: str
    this_s: float
    reference_s: float
    notes: tuple[str, ...] = ()  # how it was measured, where that is not obvious

    @property
    def factor(self) -> float:
        """How many times faster this project is.

        >>> Row("a task", this_s=2.0, reference_s=6.0).factor
        3.0
        """
        return self.reference_s / self.this_s
