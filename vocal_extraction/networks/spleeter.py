"""The networks of Spleeter, a U-Net for each source, so that weights which its makers publish can be used here.

Hennequin, Khlif, Voituret and Moussallam, "Spleeter: a fast and efficient music source separation tool with pre-trained
models", 2020, after Jansson et al., "Singing voice separation with deep U-Net convolutional networks", ISMIR 2017.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocal_extraction.errors import SettingsError
from vocal_extraction.networks.base import Network

N_FILTERS = (16, 32, 64, 128, 256, 512)
_SMALLEST = 1e-10  # added to the sum of powers, of which masks are ratios
_MOST_SHUFFLED = 16  # channels up to which a convolution with interleaved outputs is twice as fast as a transposed one
# What follows convolutions and transposed ones, by name.
_ACTIVATIONS = {"leaky": (nn.LeakyReLU(0.2, inplace=True), nn.ReLU(inplace=True)), "elu": (nn.ELU(inplace=True),) * 2}


class Spleeter(Network):
    """A U-Net for each source, on blocks of frames; the masks are ratios of the powers that they estimate.

    The U-Nets see the lowest `num_input_features` bins; of those above, `high` makes the mask 'zeros', or 'average',
    the mean of the frame's others. `activation` is 'leaky' or 'elu'.
    """

    block_frames = 512

    def __init__(
        self,
        num_features: int,
        num_audio_channels: int,
        num_sources: int,
        num_input_features: int,
        activation: str = "leaky",
        high: str = "zeros",
    ) -> None:
        super().__init__()
        if activation not in tuple(_ACTIVATIONS) or high not in ("zeros", "average"):
            raise SettingsError(f"Expected leaky or elu, and zeros or average, got {activation!r} and {high!r}.")
        self.n_bins, self.n_seen, self.high = num_features, num_input_features, high
        self.unets = nn.ModuleList(UNet(num_audio_channels, activation) for _ in range(num_sources))

    def masks(self, data: Tensor) -> Tensor:
        """Infer masks from magnitudes; shapes as for `Network.forward`. What lacks of the last block is silence."""
        n_batch, n_frames = data.shape[:2]
        # The original STFT does not divide the window by its sum, which is half of its length.
        seen = data[:, :, : self.n_seen] * (self.n_bins - 1)
        seen = functional.pad(seen, (0, 0, 0, 0, 0, -n_frames % self.block_frames))
        blocks = seen.reshape(-1, self.block_frames, *seen.shape[2:]).permute(0, 3, 1, 2)
        powers = [(unet(blocks) * blocks).square() for unet in self.unets]
        total = torch.stack(powers).sum(dim=0) + _SMALLEST
        masks = [self._with_high((power + _SMALLEST / len(powers)) / total) for power in powers]
        mask = torch.stack([mask.permute(0, 2, 3, 1) for mask in masks], dim=-1)
        return mask.reshape(n_batch, -1, *mask.shape[2:])[:, :n_frames]

    def _with_high(self, mask: Tensor) -> Tensor:
        """Add the bins that the U-Nets do not see to a mask, (..., n_bins)."""
        if self.high == "zeros":
            return functional.pad(mask, (0, self.n_bins - self.n_seen))
        above = mask.mean(dim=-1, keepdim=True).expand(*mask.shape[:-1], self.n_bins - self.n_seen)
        return torch.cat([mask, above], dim=-1)


class DoublingConvolution(nn.ConvTranspose2d):
    """A transposed convolution of 5 x 5 that doubles both axes, cropped as TensorFlow does."""

    def forward(self, data: Tensor) -> Tensor:  # type: ignore[override]
        """Double the last two axes."""
        if self.out_channels > _MOST_SHUFFLED or torch.onnx.is_in_onnx_export():  # whose kernels must be constants
            return super().forward(data)[..., :-1, :-1]
        # An even output takes every other tap, an odd one those between: four convolutions of 3 x 3, as one.
        taps = torch.tensor([[3, 1, 5], [4, 2, 0]])  # the sixth is zero
        kernel = functional.pad(self.weight, (0, 1, 0, 1))[:, :, taps[:, None, :, None], taps[None, :, None, :]]
        kernel = kernel.permute(1, 2, 3, 0, 4, 5).flatten(0, 2)
        bias = self.get_parameter("bias").repeat_interleave(4)
        return functional.pixel_shuffle(functional.conv2d(data, kernel, bias, padding=1), 2)


class UNet(nn.Module):
    """Six strided convolutions and as many back, on (n, n_channels, n_frames, n_bins), both divisible by 64."""

    def __init__(self, n_channels: int, activation: str) -> None:
        super().__init__()
        self.activation, self.activation_back = _ACTIVATIONS[activation]
        n_in = (n_channels, *N_FILTERS[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 5, stride=2) for a, b in zip(n_in, N_FILTERS, strict=True))
        self.down_norm = nn.ModuleList(nn.BatchNorm2d(n, eps=1e-3) for n in N_FILTERS)
        n_out = (*N_FILTERS[-2::-1], 1)
        n_in_back = (N_FILTERS[-1], *(2 * n for n in N_FILTERS[-2::-1]))
        self.up = nn.ModuleList(
            DoublingConvolution(a, b, 5, stride=2, padding=1) for a, b in zip(n_in_back, n_out, strict=True)
        )
        self.up_norm = nn.ModuleList(nn.BatchNorm2d(n, eps=1e-3) for n in n_out)
        self.last = nn.Conv2d(1, n_channels, 4, dilation=2, padding=3)

    def forward(self, data: Tensor) -> Tensor:
        """Keep the shape; what comes out is between 0 and 1."""
        convolved = []
        for convolution, norm in zip(self.down, self.down_norm, strict=True):
            # TensorFlow pads by one before and two behind.
            convolved.append(convolution(functional.pad(data, (1, 2, 1, 2))))
            data = self.activation(norm(convolved[-1]))
        data = convolved.pop()
        for convolution, norm in zip(self.up, self.up_norm, strict=True):
            data = norm(self.activation_back(convolution(data)))
            if convolved:
                data = torch.cat([convolved.pop(), data], dim=1)
        return torch.sigmoid(self.last(data))
