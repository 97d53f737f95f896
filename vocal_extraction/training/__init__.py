"""Training: mixtures in, checkpoints out.

=================  =====================================================================
`errors`           what can go wrong
`mixtures`         the dataset of mixtures, its samplers and loaders
`mixture_cache`    mixtures that are kept on disk
`data_module`      all data of one run: training mixtures, validation mixtures and songs
`losses`           from a batch of waveforms to one loss an item
`state`            network, optimizer, history and random state, and how to resume
`processes`        one process or several (torchrun)
`resources`        cores and memory, and the commit of the code
`run_folder`       what is written after every epoch
`trainer`          `train_model`: train, validate, keep the best, save, log, stop
=================  =====================================================================
"""

from vocal_extraction.training.errors import DataError, ResumeError, TrainingError
from vocal_extraction.training.trainer import train_model

__all__ = ["DataError", "ResumeError", "TrainingError", "train_model"]
