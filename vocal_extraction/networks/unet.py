"""A U-Net over time and frequency, whose blocks have a linear map over all frequencies beside their convolutions.

After Jansson et al., "Singing voice separation with deep U-Net convolutional networks", ISMIR 2017, and Choi et al.,
"Investigating U-Nets with various intermediate blocks for spectrogram-based singing voice separation", ISMIR 2020.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocal_extraction.errors import SettingsError
from vocal_extraction.networks.base import Network

_BINS_PER_ROW = 4  # neighbouring bins that are channels of one row of the convolutions
_SCALE = 1_000.0  # of magnitudes, before log(1 + x) is taken: the quietest that is heard becomes about 0.1
_SHARE_ABOVE = 8  # bins above the input's have the mean mask of the highest 1/8 of the input's


class UNetMaskInference(Network):
    """Masks of all channels and sources at once, from the lowest `num_input_features` bins.

    `num_layers` is how often time and frequency are halved, and `hidden_size` the number of channels before that; they
    grow to twice it, four times, six times. The bins must be divisible by 4 and as often by 2 as they are halved.
    """

    def __init__(
        self,
        num_features: int,
        num_audio_channels: int,
        hidden_size: int,
        num_layers: int,
        num_sources: int,
        num_input_features: int,
    ) -> None:
        super().__init__()
        self.n_bins, self.n_seen, self.multiple = num_features, num_input_features, 2**num_layers
        if num_input_features % (n_bins := _BINS_PER_ROW * self.multiple):
            raise SettingsError(
                f"A U-Net of {num_layers} layers takes a multiple of {n_bins} bins; got {num_input_features}."
            )
        self.outputs = num_audio_channels, num_sources
        widths = [hidden_size * max(2 * i, 1) for i in range(num_layers + 1)]
        n_rows = [num_input_features // _BINS_PER_ROW >> i for i in range(num_layers + 1)]
        pairs = list(itertools.pairwise(widths))
        self.norm = nn.BatchNorm1d(num_input_features * num_audio_channels)
        self.first = nn.Conv2d(_BINS_PER_ROW * num_audio_channels, hidden_size, 3, padding=1)
        self.down = nn.ModuleList(map(Block, [*widths, widths[-1]], [*n_rows, n_rows[-1]]))
        self.shrink = nn.ModuleList(nn.Conv2d(few, many, 2, stride=2) for few, many in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(many, few, 2, stride=2) for few, many in pairs)
        self.up = nn.ModuleList(map(Block, widths[:-1], n_rows))
        n_out = _BINS_PER_ROW * num_audio_channels * num_sources
        self.last = nn.Sequential(nn.BatchNorm2d(hidden_size), nn.ReLU(), nn.Conv2d(hidden_size, n_out, 1))

    def masks(self, data: Tensor) -> Tensor:
        """Infer masks from magnitudes; shapes as for `Network.forward`."""
        n_batch, n_frames = data.shape[:2]
        seen = torch.log1p(_SCALE * data[:, :, : self.n_seen])
        seen = self.norm(seen.flatten(0, 1).flatten(1)).reshape(seen.shape)
        seen = functional.pad(seen, (0, 0, 0, 0, 0, -n_frames % self.multiple))
        # (n_batch, channels of a row, n_frames, n_rows), channels last in memory, where convolutions are fastest
        rows = seen.reshape(n_batch, -1, self.n_seen // _BINS_PER_ROW, self.first.in_channels).permute(0, 3, 1, 2)
        rows = self.first(rows)
        before = []
        for block, shrink in zip(self.down, self.shrink, strict=False):
            before.append(block(rows))
            rows = shrink(before[-1])
        for block in self.down[len(self.shrink) :]:
            rows = block(rows)
        for grow, block in zip(reversed(self.grow), reversed(self.up), strict=True):
            rows = block(grow(rows) + before.pop())
        # (n_batch, n_channels * n_sources, n_frames, n_bins), in this order in memory, as losses go through masks
        mask = self.last(rows).permute(0, 2, 3, 1).reshape(n_batch, -1, self.n_seen, self.outputs[0] * self.outputs[1])
        mask = torch.sigmoid(mask.permute(0, 3, 1, 2).contiguous().float())[:, :, :n_frames]
        above = mask[..., -(self.n_seen // _SHARE_ABOVE) :].mean(dim=-1, keepdim=True)
        mask = torch.cat([mask, above.expand(-1, -1, -1, self.n_bins - self.n_seen)], dim=-1)
        return mask.unflatten(1, self.outputs).permute(0, 3, 4, 1, 2)


class Block(nn.Module):
    """Two convolutions of 3 x 3 and, beside the first, two linear maps over all rows; their sum is added to the input.

    Shape: (n_batch, n_channels, n_frames, n_rows), before and after.
    """

    def __init__(self, n_channels: int, n_rows: int) -> None:
        super().__init__()
        n_narrow = max(n_rows // 4, 16)
        self.norm_1, self.norm_2 = nn.BatchNorm2d(n_channels), nn.BatchNorm2d(n_channels)
        self.conv_1 = nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False)
        self.narrow, self.widen = nn.Linear(n_rows, n_narrow), nn.Linear(n_narrow, n_rows, bias=False)
        self.conv_2 = nn.Conv2d(n_channels, n_channels, 3, padding=1, bias=False)

    def forward(self, data: Tensor) -> Tensor:
        """Add what is found to the input."""
        normal = torch.relu_(self.norm_1(data))
        # The maps are multiplied from the left, since the channels are last in memory.
        narrow = torch.matmul(self.narrow.weight, normal.permute(0, 2, 3, 1)) + self.narrow.bias.unsqueeze(1)
        widened = torch.matmul(self.widen.weight, torch.relu(narrow)).permute(0, 3, 1, 2)
        return data + self.conv_2(torch.relu_(self.norm_2(self.conv_1(normal) + widened)))
