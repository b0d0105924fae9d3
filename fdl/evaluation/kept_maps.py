"""Feature maps kept from a prediction, so that class activation maps need no second pass through the whole nets."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

MOST_BYTES = 2**29  # if the feature maps are larger, none is kept, and they are computed again when they are needed


class NetAfterMaps(nn.Module):
    """The part of a net after its feature map; its input consists of row numbers of kept maps instead of images.

    Args:
        net: in evaluation mode, with a `head` that takes the feature map.
        maps: the kept feature maps (N, C, H, W).
    """

    def __init__(self, net: nn.Module, maps: Tensor) -> None:
        super().__init__()
        self.head, self.maps = cast(nn.Module, net.head), maps
        self.train(net.training)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Row numbers (B,) of any type → logits (B, K) and feature maps (B, C, H, W), at which the graph begins."""
        chosen = self.maps[rows.long()].contiguous(memory_format=torch.channels_last)
        chosen.requires_grad_(torch.is_grad_enabled())
        return self.head(chosen), chosen


def nets_after_maps(nets: Sequence[nn.Module], maps: Sequence[Tensor]) -> list[nn.Module] | None:
    """The members as `NetAfterMaps`; None if a net has no separate `head`, as torchvision's networks.

    Args:
        nets: M members in evaluation mode.
        maps: M feature maps (N, C, H, W).
    """
    if not all(hasattr(net, "head") for net in nets):
        return None
    return [NetAfterMaps(net, kept) for net, kept in zip(nets, maps, strict=True)]


def row_numbers(count: int, device: torch.device | str) -> Tensor:
    """The numbers of all rows, (count,), as floats: `grad_cam` makes its input require a gradient."""
    return torch.arange(count, device=device, dtype=torch.float64)


class MapKeeper:
    """Collects the feature maps of a prediction batch by batch, and keeps none if they exceed `MOST_BYTES`."""

    def __init__(self) -> None:
        self._batches: list[list[Tensor]] | None = []
        self._bytes = 0

    def add(self, maps: Sequence[Tensor]) -> None:
        """Add the M feature maps (B, C, H, W) of a batch."""
        self._bytes += sum(part.numel() * part.element_size() for part in maps)
        if self._bytes > MOST_BYTES:
            self._batches = None
        if self._batches is not None:
            self._batches.append(list(maps))

    def maps(self) -> list[Tensor] | None:
        """M feature maps (N, C, H, W); None if they were too large or nothing was added."""
        if not self._batches:
            return None
        return [torch.cat(batches) for batches in zip(*self._batches, strict=True)]
