"""Training: mixtures in, checkpoints out.

=================  =====================================================================
`errors`           what can go wrong
`rendered`         mixtures that are kept on disk
`mixtures`         datasets, loaders and songs: what a run listens to, and in which order
`material`         all of that for one run
`losses`           from a batch of waveforms to one loss an item
`state`            what a run is made of, and how it goes on after a stop
`processes`        one process or several (torchrun)
`resources`        cores, memory, and which code a run is of
`journal`          what a run leaves in its folder after every epoch
`loop`             `train_model`: train, validate, keep the best, save, log, stop
=================  =====================================================================
"""

from vocal_extraction.training.errors import DataError, ResumeError, TrainingError
from vocal_extraction.training.loop import train_model

__all__ = ["DataError", "ResumeError", "TrainingError", "train_model"]
