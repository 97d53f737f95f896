"""Several networks as one: the mean of their masks, or one network for each source."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vocal_extraction.errors import SettingsError
from vocal_extraction.networks.base import Network
from vocal_extraction.networks.layers import OverTime

_MOST_MEMBERS = 16


class EnsembleMaskInference(Network):
    """Several networks of one kind, trained apart, whose masks are averaged.

    The mean errs less than each by itself (Dietterich, "Ensemble methods in machine learning", MCS 2000).
    `checkpointing.joining` joins their checkpoints. `member` is their class, by its name in `NETWORKS`; there are 1 to
    16, all made with the same arguments.
    """

    def __init__(self, member: str, n_members: int, **arguments: Any) -> None:
        super().__init__()
        kind = _member_class(member, n_members)
        members = [kind(**arguments) for _ in range(n_members)]
        self.members: Any = nn.ModuleList(members)
        self.lookahead = members[0].lookahead

    @classmethod
    def checked_arguments(cls, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Return the arguments by name, those of the members as their own class checks them."""
        found = super().checked_arguments(*arguments, **named)
        kinds = {"member": found.pop("member"), "n_members": found.pop("n_members")}
        return {**kinds, **_member_class(**kinds).checked_arguments(**found)}

    @property
    def is_layerwise(self) -> bool:
        """Whether all members can be run layer by layer."""
        return all(member.is_layerwise for member in self.members)

    def _joined(self, masks: list[Tensor]) -> Tensor:
        return torch.stack(masks).mean(dim=0)

    def masks(self, data: Tensor) -> Tensor:
        """Infer masks from magnitudes; shapes as for `Network.forward`."""
        return self._joined([member.masks(data) for member in self.members])

    def encode(self, data: Tensor) -> Tensor:
        """Return the features of all members, side by side."""
        return torch.cat([member.encode(data) for member in self.members], dim=-1)

    def layers_over_time(self) -> list[OverTime]:
        """Return the layers of one member after the other; the features of the current member come first."""
        return [
            _among_others(layer, is_last=layer is layers[-1])
            for layers in (member.layers_over_time() for member in self.members)
            for layer in layers
        ]

    def decode(self, features: Tensor) -> Tensor:
        """Infer the masks of each frame; each member's last layer has moved its features to the end, in order."""
        chunks = features.chunk(len(self.members), dim=-1)
        return self._joined([member.decode(own) for member, own in zip(self.members, chunks, strict=True)])


class SourceNetworks(EnsembleMaskInference):
    """A network for each source, as open-unmix and others are published; `n_members` is the number of sources."""

    has_one_for_each_source = True

    def _joined(self, masks: list[Tensor]) -> Tensor:
        return torch.cat(masks, dim=-1)

    def only(self, indices: list[int]) -> "SourceNetworks":
        """Return the network of some of its sources, on the same weights."""
        one = copy.copy(self)
        one._modules = {"members": nn.ModuleList(self.members[i] for i in indices)}
        return one


def _among_others(layer: OverTime, *, is_last: bool) -> OverTime:
    """Give a layer of one member its own features only, which come first, and after its last layer go to the end."""
    n_own = layer.n_features + layer.n_beside

    def before(features: Tensor) -> Tensor:
        own = features[..., :n_own]
        return own if layer.before is None else layer.before(own)

    def after(features: Tensor, output: Tensor) -> Tensor:
        own, others = features[..., :n_own], features[..., n_own:]
        own = output if layer.after is None else layer.after(own, output)
        return torch.cat([others, own] if is_last else [own, others], dim=-1)

    return OverTime(layer.lstm, layer.layer, before, after)


def _member_class(member: Any, n_members: Any) -> type[Network]:
    from vocal_extraction.networks import NETWORKS

    is_known = (
        isinstance(member, str) and member in NETWORKS and not issubclass(NETWORKS[member], EnsembleMaskInference)
    )
    if not is_known or type(n_members) is not int or not 1 <= n_members <= _MOST_MEMBERS:
        raise SettingsError(
            f"No ensemble of {str(n_members)[:20]} x {str(member)[:40]!r}; expected 1 to {_MOST_MEMBERS} networks."
        )
    return NETWORKS[member]
