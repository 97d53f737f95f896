"""Training: mixtures in, checkpoints out.

=================  =====================================================================
`mixtures`         datasets and loaders: what is mixed, in which order, and what is kept
`losses`           from a batch of waveforms to one loss an item
`state`            what a run is made of, and how it goes on after a stop
`processes`        one process or several (torchrun)
`resources`        cores, memory, and which code a run is of
`loop`             `train_model`: train, validate, keep the best, save, log, stop
=================  =====================================================================
"""

from training.loop import TrainingError, train_model

__all__ = ["TrainingError", "train_model"]
