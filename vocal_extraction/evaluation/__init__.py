"""Scores of models and of other separators' estimates, on songs whose stems are known: see docs/evaluation.md.

`METRICS` and `SYSTEMS` are tables to which metrics, baselines and oracles of one's own are added.
"""

from vocal_extraction.evaluation.comparison import compare_models
from vocal_extraction.evaluation.evaluate import Evaluation, EvaluationOptions, evaluate_estimates, evaluate_model
from vocal_extraction.evaluation.metrics import METRICS, EvaluationError, Metric
from vocal_extraction.evaluation.systems import SYSTEMS, System
