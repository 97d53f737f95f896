"""The specification's import: ``from data_augmentation import create_mix_closure`` and its neighbours."""

from vocal_extraction.data_augmentation import (
    MixClosure,
    create_mix_closure,
    generate_coherent_mixture,
    generate_incoherent_mixture,
)

__all__ = ["MixClosure", "create_mix_closure", "generate_coherent_mixture", "generate_incoherent_mixture"]
