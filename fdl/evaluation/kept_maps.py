"""Feature maps kept from a prediction: what is computed from them needs no second pass through the nets."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

MOST_BYTES = 2**29  # of maps that are kept; more are computed again when they are needed


class NetAfterMaps(nn.Module):
    """The part of a net behind its feature map; its input are numbers of kept maps instead of images.

    Args:
        net: in evaluation mode, with a `head` that takes the feature map.
        maps: (N, C, H, W).
    """

    def __init__(self, net: nn.Module, maps: Tensor) -> None:
        super().__init__()
        self.head, self.maps = cast(nn.Module, net.head), maps
        self.train(net.training)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Row numbers (B,), of any type → logits (B, K) and feature maps (B, C, H, W), where the graph begins."""
        chosen = self.maps[rows.long()].contiguous(memory_format=torch.channels_last)
        chosen.requires_grad_(torch.is_grad_enabled())
        return self.head(chosen), chosen


def nets_after_maps(nets: Sequence[nn.Module], maps: Sequence[Tensor]) -> list[nn.Module] | None:
    """The members as `NetAfterMaps`; None where a net has no part behind its map: torchvision's are one graph."""
    if not all(hasattr(net, "head") for net in nets):
        return None
    return [NetAfterMaps(net, kept) for net, kept in zip(nets, maps, strict=True)]


def row_numbers(count: int, device: torch.device | str) -> Tensor:
    """The numbers of all rows, (count,), in a type that may ask for a gradient, as images do."""
    return torch.arange(count, device=device, dtype=torch.float64)


class MapKeeper:
    """Keeps the feature maps that a prediction makes, batch by batch, up to `MOST_BYTES`."""

    def __init__(self) -> None:
        self._batches: list[list[Tensor]] | None = []
        self._bytes = 0

    def add(self, maps: Sequence[Tensor]) -> None:
        """M maps (B, C, H, W)."""
        self._bytes += sum(part.numel() * part.element_size() for part in maps)
        if self._bytes > MOST_BYTES:
            self._batches = None
        if self._batches is not None:
            self._batches.append(list(maps))

    def maps(self) -> list[Tensor] | None:
        """M maps (N, C, H, W); None if they were too large."""
        if not self._batches:
            return None
        return [torch.cat(batches) for batches in zip(*self._batches, strict=True)]
