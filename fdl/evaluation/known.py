"""Nets whose feature maps of some images are known: what comes behind the maps needs no second walk through the net."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

MOST = 2**29  # bytes of maps that are kept; more are computed again when they are needed


class Known(nn.Module):
    """A net that is asked for rows of the images whose maps are known, not for the images.

    Args:
        net: in evaluation mode, with a `head` that takes the feature map.
        maps: (N, C, H, W).
    """

    def __init__(self, net: nn.Module, maps: Tensor) -> None:
        super().__init__()
        self.head, self.maps = cast(nn.Module, net.head), maps
        self.train(net.training)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B,), of any type → logits (B, K) and feature maps (B, C, H, W), from which on there is a graph."""
        chosen = self.maps[rows.long()].contiguous(memory_format=torch.channels_last)
        chosen.requires_grad_(torch.is_grad_enabled())
        return self.head(chosen), chosen


def known(nets: Sequence[nn.Module], maps: Sequence[Tensor]) -> list[nn.Module] | None:
    """The members as `Known`; None where a net has no part behind its map: torchvision's are one graph."""
    if not all(hasattr(net, "head") for net in nets):
        return None
    return [Known(net, of_net) for net, of_net in zip(nets, maps, strict=True)]


def rows(count: int, device: torch.device | str) -> Tensor:
    """The numbers of all rows, (count,), in a type that may ask for a gradient, as images do."""
    return torch.arange(count, device=device, dtype=torch.float64)


class Keeper:
    """Keeps the feature maps that a prediction makes, batch by batch, up to `MOST` bytes."""

    def __init__(self) -> None:
        self._batches: list[list[Tensor]] | None = []
        self._bytes = 0

    def add(self, maps: Sequence[Tensor]) -> None:
        """M maps (B, C, H, W)."""
        self._bytes += sum(part.numel() * part.element_size() for part in maps)
        if self._bytes > MOST:
            self._batches = None
        if self._batches is not None:
            self._batches.append(list(maps))

    def maps(self) -> list[Tensor] | None:
        """M maps (N, C, H, W); None if they were too large."""
        if not self._batches:
            return None
        return [torch.cat(batches) for batches in zip(*self._batches, strict=True)]
