"""The three entrances of the evaluation. (Signatures first; the body follows.)"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from settings import CHECKPOINT_FOLDER, DATASET_FOLDER, EVALUATION_FOLDER, VocalExtractionError

PathLike = str | os.PathLike[str]


class EvaluationError(VocalExtractionError):
    """An evaluation cannot be done or continued; the text says what to do."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and where it stands."""

    summary: dict[str, Any]
    """The content of ``summary.json``."""
    report_card: str
    """The content of ``report_card.txt``: the table that was printed."""
    output_folder: Path
    """Where all files stand, ``report.html`` among them."""


def evaluate_model(
    path_to_trained_model: PathLike = CHECKPOINT_FOLDER / "best.model.pth",
    *,
    dataset_folder: PathLike = DATASET_FOLDER,
    subset: str = "test",
    output_folder: PathLike = EVALUATION_FOLDER,
    metrics: Sequence[str] = ("scale",),
    mask: str = "soft",
    oracles: bool = False,
    baselines: bool = False,
    limit: int | None = None,
    n_jobs: int | None = None,
    save_estimates: bool = False,
    separator: str = "extraction",
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
    show: bool = True,
) -> Evaluation:
    """Score a checkpoint. `metrics`: 'scale', 'bsseval_v4'; `separator`: 'extraction', 'nussl'; `show` prints."""
    raise EvaluationError("Evaluation is not built yet.")


def evaluate_estimates(
    estimates_folder: PathLike,
    *,
    dataset_folder: PathLike = DATASET_FOLDER,
    subset: str = "test",
    output_folder: PathLike = EVALUATION_FOLDER,
    metrics: Sequence[str] = ("scale",),
    oracles: bool = False,
    baselines: bool = False,
    limit: int | None = None,
    n_jobs: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    show: bool = True,
) -> Evaluation:
    """Score ``<estimates_folder>/<song>/vocals.wav`` (and ``accompaniment.wav``) made by any separator."""
    raise EvaluationError("Evaluation is not built yet.")


def compare_models(
    paths_to_trained_models: Sequence[PathLike],
    *,
    dataset_folder: PathLike = DATASET_FOLDER,
    subset: str = "test",
    output_folder: PathLike = EVALUATION_FOLDER,
    metrics: Sequence[str] = ("scale",),
    mask: str = "soft",
    oracles: bool = False,
    baselines: bool = False,
    limit: int | None = None,
    n_jobs: int | None = None,
    save_estimates: bool = False,
    separator: str = "extraction",
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
    show: bool = True,
) -> dict[str, Any]:
    """Score two or more checkpoints and pair them song by song; the content of ``comparison.json`` is returned."""
    raise EvaluationError("Evaluation is not built yet.")
