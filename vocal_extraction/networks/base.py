"""The base class of all networks: magnitudes of the mixture in, masks and masked magnitudes out."""

import inspect
import math
from typing import Any

from torch import Tensor, nn

from vocal_extraction.errors import SettingsError
from vocal_extraction.settings import converted

MOST_LAYERS = 64
MOST_SOURCES = 16
_BOUNDS: dict[str, tuple[Any, Any]] = {  # lowest and highest value of the arguments that networks share
    **dict.fromkeys(("num_features", "num_input_features", "hidden_size"), (1, 2**20)),
    "num_audio_channels": (1, 8),
    "num_layers": (1, MOST_LAYERS),
    "num_sources": (1, MOST_SOURCES),
    "dropout": (0.0, 1.0),
    "bidirectional": (False, True),
    "lookahead": (0, 64),
    "sample_rate": (8_000, 192_000),
}


class Network(nn.Module):
    """Base class of the networks; a subclass needs `masks` only, or `forward`.

    A subclass that has `encode`, `layers_over_time` and `decode`, too, as `MaskInference`, is run layer by layer over
    a song of any length, as if that were one item. Any other is run on chunks with context.
    """

    block_frames: int | None = None  # frames of the blocks that it takes in turn; None: it takes any number of frames
    has_one_for_each_source = False  # whether it is a network for each source, of which `only` returns some
    largest_feature = math.inf  # what `encode` gives of usual songs is smaller; graphs of 8 bits cut it off there
    lookahead = 0  # by how many frames masks are delayed, for a network that runs forwards only

    def forward(self, data: Tensor) -> dict[str, Tensor]:
        """Infer masks from magnitudes.

        Parameters
        ----------
        data
            Magnitudes, at least 0. Shape: (n_batch, n_frames, n_bins, n_channels).

        Returns
        -------
        dict
            ``mask``, 0 to 1, and ``estimates``, the mask times the magnitudes.
            Shape of both: (n_batch, n_frames, n_bins, n_channels, n_sources).
        """
        mask = self.masks(data)
        return {"mask": mask, "estimates": data.unsqueeze(-1) * mask}

    def masks(self, data: Tensor) -> Tensor:
        """Return the masks alone, which is all that losses and separation take."""
        return self(data)["mask"]

    @property
    def is_layerwise(self) -> bool:
        """Whether the network can be run layer by layer."""
        return all(hasattr(self, name) for name in ("encode", "layers_over_time", "decode"))

    @classmethod
    def checked_arguments(cls, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Return the constructor's arguments by name; a SettingsError says that one is wrong or missing."""
        signature = inspect.signature(cls)
        try:
            bound = signature.bind(*arguments, **named)
        except TypeError as error:
            raise SettingsError(f"{cls.__name__}: {error}. It takes {', '.join(signature.parameters)}.") from None
        found: dict[str, Any] = {**dict(zip(signature.parameters, bound.args, strict=False)), **bound.kwargs}
        found = {name: _checked(cls.__name__, name, value) for name, value in found.items()}
        if found.get("num_input_features", 0) > (most := found.get("num_features", math.inf)):
            raise SettingsError(f"{cls.__name__}: num_input_features is more than the {most} of num_features.")
        return found

    @classmethod
    def build(cls, *arguments: Any, **named: Any) -> nn.Module:
        """Register this class with nussl and return nussl's `SeparationModel` around a new network.

        Parameters
        ----------
        *arguments, **named
            The arguments of the constructor.

        Returns
        -------
        nussl.ml.SeparationModel
            Takes ``{'mix_magnitude': ...}`` and returns ``{'mask', 'estimates'}``.

        Raises
        ------
        SettingsError
            If the constructor does not take them.

        Examples
        --------
        >>> import torch
        >>> from vocal_extraction.networks import MaskInference
        >>> network = MaskInference.build(
        ...     num_features=257, num_audio_channels=1, hidden_size=100, num_layers=3,
        ...     bidirectional=True, dropout=0.2, num_sources=1, activation='sigmoid')
        >>> network(mix_magnitude=torch.rand(2, 10, 257, 1))['mask'].shape
        torch.Size([2, 10, 257, 1, 1])
        """
        from vocal_extraction.compatibility import nussl

        nussl.ml.register_module(cls)
        return nussl.ml.SeparationModel(cls.config_of(cls.checked_arguments(*arguments, **named)))

    @classmethod
    def config_of(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return how nussl describes a network of this class."""
        outputs = ("mask", "estimates")
        return {
            "name": cls.__name__,
            "modules": {
                "mix_magnitude": {},
                "model": {"class": cls.__name__, "args": arguments},
                **{name: {"class": "Alias"} for name in outputs},
            },
            "connections": [["model", ["mix_magnitude"]], *([name, [f"model:{name}"]] for name in outputs)],
            "output": list(outputs),
        }


def _checked(network: str, name: str, value: Any) -> Any:
    """Return an argument as the type that it should have."""
    if name not in _BOUNDS:
        return value
    lowest, highest = _BOUNDS[name]
    value = converted(value, type(lowest), f"{network}: {name}")
    if not lowest <= value <= highest:
        raise SettingsError(f"{network}: {name} is {str(value)[:40]}; expected {lowest} to {highest}.")
    return value
