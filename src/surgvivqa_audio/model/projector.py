"""From stacked encoder frames to the width of the language model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surgvivqa_audio.errors import ConfigError


class LinearProjector(nn.Linear):
    """One matrix without bias: the seed layout's projector."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """(b, a, d) of any precision -> (b, a, d_out) in that of the weights."""
        return super().forward(input.to(self.weight.dtype))


class MlpProjector(nn.Module):
    """RMS norm, SwiGLU, RMS norm: (b, a, stack * d) -> (b, a, d_out).

    The second norm starts at the scale of the embedding table, so that audio tokens enter the language
    model at the size it knows. Source of the shape: Ultravox (frame stacking and SwiGLU).
    """

    def __init__(self, width_in: int, width_out: int, width_hidden: int) -> None:
        super().__init__()
        self.norm_in = nn.RMSNorm(width_in, eps=1e-6)
        self.gate = nn.Linear(width_in, width_hidden, bias=False)
        self.up = nn.Linear(width_in, width_hidden, bias=False)
        self.down = nn.Linear(width_hidden, width_out, bias=False)
        self.norm_out = nn.RMSNorm(width_out, eps=1e-6)

    def forward(self, stacked: Tensor) -> Tensor:
        """(b, a, stack * d) of any precision -> (b, a, d_out) in that of the weights."""
        hidden = self.norm_in(stacked.to(self.norm_in.weight.dtype))
        return self.norm_out(self.down(nn.functional.silu(self.gate(hidden)) * self.up(hidden)))


def build_projector(kind: str, width_in: int, width_out: int, width_hidden: int) -> nn.Module:
    """A projector by kind, ``linear`` or ``mlp``; see the classes. Raises ConfigError."""
    if kind == "linear":
        return LinearProjector(width_in, width_out)
    if kind == "mlp":
        return MlpProjector(width_in, width_out, width_hidden)
    raise ConfigError(f"projector '{kind}' is unknown; use linear or mlp")


def match_embedding_scale(projector: nn.Module, embedding: Tensor) -> None:
    """Start the projector's output at the root mean square of an embedding table (vocabulary, d)."""
    # In pieces: a table of 152,000 rows in fp32 would need several gigabytes more than the model.
    squares = sum(float(rows.float().pow(2).sum()) for rows in embedding.detach().split(16384))
    scale = (squares / embedding.numel()) ** 0.5
    with torch.no_grad():
        if isinstance(projector, MlpProjector):
            projector.norm_out.weight.fill_(scale)
        elif isinstance(projector, LinearProjector):
            # Encoder frames leave a layer norm with unit variance per channel.
            projector.weight.normal_(0.0, scale / projector.in_features**0.5)
