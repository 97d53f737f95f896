"""The specification's network, layer by layer the one of the source-separation tutorial.

Manilow, Seetharaman and Salamon, "Open source tools and data for music source separation", 2020, with the tutorial's
names for the parts, so that checkpoints of either load here.
"""

from torch import Tensor

from vocal_extraction.networks.base import Network
from vocal_extraction.networks.layers import AmplitudeToDB, BatchNorm, Embedding, OverTime, RecurrentStack


class MaskInference(Network):
    """A stack of (bidirectional) LSTMs that infers one mask a source.

    Parameters
    ----------
    num_features
        Frequency bins, ``window_length // 2 + 1``.
    num_audio_channels
        Channels that go through together; 1 for mono.
    hidden_size
        Units of each LSTM direction.
    num_layers
        LSTM layers.
    bidirectional
        Whether the LSTMs also run backwards.
    dropout
        Dropout between LSTM layers, 0 to 1.
    num_sources
        Masks to infer.
    activation
        'sigmoid' (each mask from 0 to 1) or 'softmax' (the masks of all sources sum to 1).

    Raises
    ------
    SettingsError
        If the activation is another.
    """

    largest_feature = 8.0  # standard deviations; of bins where training songs were silent, there are thousands

    def __init__(
        self,
        num_features: int,
        num_audio_channels: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        num_sources: int,
        activation: str = "sigmoid",
    ) -> None:
        super().__init__()
        self.amplitude_to_db = AmplitudeToDB()
        self.input_normalization = BatchNorm(num_features)
        self.recurrent_stack = RecurrentStack(
            num_features * num_audio_channels, hidden_size, num_layers, bool(bidirectional), dropout
        )
        n_directions = 2 if bidirectional else 1
        self.embedding = Embedding(
            num_features, hidden_size * n_directions, num_sources, activation, num_audio_channels
        )

    def masks(self, data: Tensor) -> Tensor:
        """Infer masks from magnitudes; shapes as for `Network.forward`."""
        features = self.recurrent_stack(self.encode(data))  # (n_batch, n_frames, n_directions * hidden_size)
        return self.decode(features)

    def encode(self, data: Tensor) -> Tensor:
        """Return the features of each frame before the first recurrent layer: (n_sequences, n_frames, n_features)."""
        return self.input_normalization(self.amplitude_to_db(data)).flatten(2)

    def layers_over_time(self) -> list[OverTime]:
        """Return the recurrent layers in order; between `encode` and `decode` they do what `forward` does."""
        lstm = self.recurrent_stack.rnn
        return [OverTime(lstm, layer) for layer in range(lstm.num_layers)]

    def decode(self, features: Tensor) -> Tensor:
        """Infer the masks of each frame from the last layer's output."""
        return self.embedding(features)
