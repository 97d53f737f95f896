"""The specification's import: ``from data_augmentation import create_mix_closure`` and its neighbours."""

from vocal_extraction.data_augmentation import (
    MixClosure,
    create_mix_closure,
    generate_coherent_mixture,
    generate_incoherent_mixture,
)
from vocal_extraction.published_names import (
    prepare_dataset,
    scaper_event_template,
    scaper_object_configuration,
    stem_labels,
)

__all__ = [
    "MixClosure",
    "create_mix_closure",
    "generate_coherent_mixture",
    "generate_incoherent_mixture",
    "prepare_dataset",
    "scaper_event_template",
    "scaper_object_configuration",
    "stem_labels",
]
