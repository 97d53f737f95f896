"""How good are the estimates, and compared to what?

``evaluate_model`` scores a checkpoint, ``evaluate_estimates`` a folder of wavs made by any separator, and
``compare_models`` sets several checkpoints side by side, all on the same songs with the same protocol.
"""

from vocal_extraction.evaluation.comparison import compare_models
from vocal_extraction.evaluation.evaluate import Evaluation, evaluate_estimates, evaluate_model
from vocal_extraction.evaluation.songs import EvaluationError

__all__ = ["Evaluation", "EvaluationError", "compare_models", "evaluate_estimates", "evaluate_model"]
