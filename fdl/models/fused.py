"""Many members as one network: the same layers, one weight tensor for all nets.

Convolutions are grouped, batch norm runs over the merged channels (its statistics are per channel, so
no two nets ever mix), dense layers are batched products. The numbers are those of the single nets up
to rounding; what is gained is that a GPU starts one kernel where it would start one per net.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fdl.core.randomness import absorb, kept, uniform
from fdl.models import Member, convolutions, short_batches
from fdl.models.layers import DenseBatchNorm, Dropout
from fdl.models.resnet import Block

State = dict[str, Tensor]
# For "training", where gradients are wanted, and "evaluation": layer → its form in `convolutions.BACK_ENDS`, where that
# is not "grouped".
BackEnds = Mapping[str, Mapping[str, str]]
# Numbers that a processor takes at a time, at most. Torch's batch norm rounds the last few channels otherwise: whose
# these are must not depend on how many nets there are, so on a CPU it is given channels that are none's.
LANES = 16


@dataclass
class Pass:
    """How a forward pass is done; the default is an evaluation."""

    momentum: float | None = None  # batch norm takes the batch's statistics and moves its averages so far
    dropout: Tensor | None = None  # (inputs, M) int64: a key per member, the same for all runs; None: no dropout
    images: Tensor | None = None  # (G, B) bool: which images of the batch are real; None: all
    folded: bool = False  # an evaluation with the weights that `FusedNets.fold` made last


class FusedNets:
    """G nets of one architecture.

    Parameters and buffers have the names of a single net and a leading dimension of nets. The
    parameters are views of `flat`, their gradients of `gradient`; both end with some elements that are none's.

    Args:
        nets: built alike, with their weights. Nets that see the same images stand together.
        inputs: number of different image batches, each seen by G / inputs nets.
        apart: call the first layer net by net. Else the nets of an input are one convolution there, which is faster
            on a GPU, but on a CPU each net's numbers would depend on how many there are.
    """

    def __init__(self, nets: Sequence[Member], inputs: int = 1, *, apart: bool = False) -> None:
        if len(nets) % inputs:
            raise ValueError(f"{len(nets)} nets do not divide into {inputs} inputs")
        self.template, self.count, self.inputs, self.apart = nets[0], len(nets), inputs, apart
        first = next(nets[0].parameters())
        self._shapes = {name: parameter.detach() for name, parameter in nets[0].named_parameters()}
        total = len(nets) * sum(parameter.numel() for parameter in self._shapes.values())
        # A processor takes 16 numbers at a time and rounds the last few otherwise: whose these are must not depend
        # on how many nets there are.
        total = -(-total // 64) * 64
        self.flat = torch.zeros(total, dtype=first.dtype, device=first.device)
        self.gradient = torch.zeros_like(self.flat)
        self.parameters = {name: view.requires_grad_() for name, view in self.parted(self.flat).items()}
        for name, view in self.parted(self.gradient).items():
            self.parameters[name].grad = view
        self.buffers: State = {
            name: buffer.new_empty((len(nets), *buffer.shape)) for name, buffer in nets[0].named_buffers()
        }
        dropouts = (module for module in nets[0].modules() if isinstance(module, Dropout))
        self.back_ends: BackEnds = {}
        self._norm_after = _norms_after_convolutions(nets[0])
        self._folded: State = {}
        self._dropout_index = {module: index for index, module in enumerate(dropouts)}
        for index, net in enumerate(nets):
            self.load(index, net.state_dict())

    def parted(self, flat: Tensor) -> State:
        """A tensor laid out as `flat` as views (G, *shape) by parameter."""
        parts, start = {}, 0
        for name, parameter in self._shapes.items():
            part = flat[start : (start := start + self.count * parameter.numel())]
            parts[name] = _view(part, self.count, parameter)
        return parts

    def state(self, net: int) -> State:
        """A net's state, as its own module would give it; a copy."""
        return {name: value[net].detach().clone() for name, value in (self.parameters | self.buffers).items()}

    @torch.no_grad()
    def load(self, net: int, state: State) -> None:
        """Put a state into one net."""
        for name, value in (self.parameters | self.buffers).items():
            value[net].copy_(state[name])

    @torch.no_grad()
    def fold(self, *, autocast: bool) -> None:
        """Make the weights of evaluations with `Pass.folded`, at the same places each time.

        A convolution takes over the batch norm that follows it, with the statistics of this moment. The numbers are
        those of both layers up to rounding, and a pass over every map is saved.

        Args:
            autocast: whether products are in bfloat16: their weights are cast here, once for all passes.
        """
        for name, module in self.template.named_modules():
            if not isinstance(module, nn.Conv2d | nn.Linear) or not (autocast or name in self._norm_after):
                continue
            weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
            if norm := self._norm_after.get(name):
                mean, var = self.buffers[f"{norm}.running_mean"], self.buffers[f"{norm}.running_var"]
                layer = self.template.get_submodule(norm)
                assert isinstance(layer, nn.BatchNorm2d)
                scale = self.parameters[f"{norm}.weight"] * torch.rsqrt(var + layer.eps)  # (G, O)
                weight = weight * scale[..., None, None, None]
                bias = (bias - mean) * scale + self.parameters[f"{norm}.bias"]
            for part, value in ((f"{name}.weight", weight), (f"{name}.bias", bias)):
                if part not in self._folded:
                    self._folded[part] = torch.empty_like(value, dtype=torch.bfloat16 if autocast else value.dtype)
                self._folded[part].copy_(value)

    def __call__(self, x: Tensor, how: Pass | None = None) -> tuple[Tensor, Tensor]:
        """Forward pass of all nets.

        Args:
            x: images (B, 3, H, W) that all nets see, or (B, inputs · 3, H, W).
            how: training or evaluation.

        Returns:
            Logits (G, B, C) and feature maps (B, G, C', H', W').
        """
        how = how or Pass()
        merged = self._run(self.template.features, "features", x, how)
        batch, _, height, width = merged.shape
        logits = self._run(self.template.head, "head", merged, how)
        return logits, merged.view(batch, self.count, -1, height, width)

    def _run(self, module: nn.Module, name: str, x: Tensor, how: Pass) -> Tensor:
        """One layer of the template, on all nets: (B, G · C, H, W) before the head's `Flatten`, (G, B, F) after."""
        weights = self._folded if how.folded and f"{name}.weight" in self._folded else self.parameters
        weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        match module:
            case nn.Sequential():
                for child, layer in module.named_children():
                    x = self._run(layer, f"{name}.{child}", x, how)
                return x
            case Block():
                main, shortcut = (self._run(getattr(module, n), f"{name}.{n}", x, how) for n in ("main", "shortcut"))
                pooled: Tensor = module.pool(module.activation(main + shortcut))
                return pooled
            case nn.Conv2d():
                assert weight is not None
                assert bias is not None
                groups = x.shape[1] // module.in_channels  # the first layer: 1 or `inputs`, then G
                if self.apart and groups < self.count:
                    images = x.chunk(groups, dim=1)
                    return torch.cat(
                        [
                            convolutions.grouped(images[net * groups // self.count], *of_net, module)
                            for net, of_net in enumerate(zip(weight.split(1), bias.split(1), strict=True))
                        ],
                        dim=1,
                    )
                forms = self.back_ends.get("training" if torch.is_grad_enabled() else "evaluation", {})
                return convolutions.BACK_ENDS[forms.get(name, "grouped")](x, weight, bias, module)
            case nn.BatchNorm2d() if how.folded and name in self._norm_after.values():
                return x
            case DenseBatchNorm() | nn.BatchNorm2d():
                return self._normalise(module, name, x, how)
            case nn.Linear():
                assert weight is not None
                assert bias is not None
                return torch.baddbmm(bias[:, None], x, weight.mT)
            case nn.AdaptiveAvgPool2d() if self.apart:
                return x.flatten(2).contiguous().mean(dim=2)[..., None, None]
            case Dropout():
                return self._drop(module, x, how)
            case nn.Flatten():
                return x.view(len(x), self.count, -1, *x.shape[2:]).transpose(0, 1).flatten(2)
            case _:  # activations, pools and padding act on every channel alone
                result: Tensor = module(x)
                return result

    def _drop(self, module: Dropout, x: Tensor, how: Pass) -> Tensor:
        if how.dropout is None or module.p == 0:
            return x
        keys = absorb(how.dropout, self._dropout_index[module])
        inputs, members = keys.shape
        dense = x.dim() == 3
        shape = tuple(x.shape[1:]) if dense else (len(x), x.shape[1] // self.count, *x.shape[2:])
        nets = (inputs, self.count // keys.numel(), members)
        keep = _masks(keys.flatten(), shape, x, module.p)  # (K, B, F), or (B, K · C, H, W)
        if dense:
            kept_of_nets: Tensor = x.unflatten(0, nets) * keep.unflatten(0, (inputs, 1, members)) / (1 - module.p)
            return kept_of_nets.flatten(0, 2)
        parted: Tensor = x.unflatten(1, (*nets, -1)) * keep.unflatten(1, (inputs, 1, members, -1)) / (1 - module.p)
        return parted.flatten(1, 4)

    def _normalise(self, module: DenseBatchNorm | nn.BatchNorm2d, name: str, x: Tensor, how: Pass) -> Tensor:
        """Batch norm; Keras' moving variance is the biased one after a dense layer (see `DenseBatchNorm`)."""
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        mean, var = self.buffers[f"{name}.running_mean"], self.buffers[f"{name}.running_var"]
        dense = isinstance(module, DenseBatchNorm)
        if how.momentum is not None and not dense:
            self.buffers[f"{name}.num_batches_tracked"].add_(1)
        if not dense and how.images is None:
            extra = -x.shape[1] % LANES if self.apart else 0
            flat = [functional.pad(value.flatten(), (0, extra)) for value in (mean, var, weight, bias)]
            if extra:
                x = functional.pad(x, (0, 0, 0, 0, 0, extra)).contiguous(memory_format=torch.channels_last)
            else:
                flat[:2] = mean.flatten(), var.flatten()  # these are moved in place
            training, momentum = how.momentum is not None, how.momentum or 0.0
            normalised = functional.batch_norm(
                x, flat[0], flat[1], flat[2], flat[3], training, momentum=momentum, eps=module.eps
            )
            if not extra:
                return normalised
            if normalised.requires_grad:  # what comes back through the slice lies channels first: another kernel's
                normalised.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
            if training:
                for moved, own in zip(flat, (mean, var), strict=False):
                    own.copy_(moved[:-extra].view_as(own))
            return normalised[:, :-extra].contiguous(memory_format=torch.channels_last)
        precise = torch.promote_types(x.dtype, torch.float32)
        if how.images is not None and not dense:
            assert how.momentum is not None
            number = how.images.sum(dim=1, keepdim=True).to(precise) * x[0, 0].numel()  # (G, 1), cells of a channel
            share = (how.images / number).mT[..., None].expand(-1, *mean.shape).flatten(1)  # (B, G · C)
            normalised, *moments = short_batches.batch_norm(x, weight.flatten(), bias.flatten(), share, module.eps)
            batch_mean, batch_var = (value.view_as(mean) for value in moments)
            mean.lerp_(batch_mean.to(mean.dtype), how.momentum)
            var.lerp_((batch_var * number / (number - 1)).to(var.dtype), how.momentum)
            return normalised
        x = x.to(precise)  # (G, B, F)
        if how.momentum is None:
            batch_mean, batch_var = mean, var
        else:
            batch_mean, batch_var = self._statistics(x, how.images)
            mean.lerp_(batch_mean.detach().to(mean.dtype), how.momentum)
            var.lerp_(batch_var.detach().to(var.dtype), how.momentum)
        x = (x - batch_mean[:, None]) * torch.rsqrt(batch_var + module.eps)[:, None]
        return x * weight[:, None] + bias[:, None]

    def _statistics(self, x: Tensor, images: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and biased variance (G, F) of (G, B, F), over the images that count."""
        if images is None:
            return x.mean(dim=1), x.var(dim=1, unbiased=False)
        share = (images.to(x.dtype) / images.sum(dim=1, keepdim=True))[..., None]  # (G, B, 1)
        mean = (x * share).sum(dim=1)
        return mean, ((x - mean[:, None]).square() * share).sum(dim=1)


def _norms_after_convolutions(net: Member) -> dict[str, str]:
    """Of each convolution that batch norm follows: the name of this batch norm."""
    found: dict[str, str] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Sequential):
            for (before, layer), (after, norm) in pairwise(module.named_children()):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    found[f"{name}.{before}"] = f"{name}.{after}"
    return found


def _masks(keys: Tensor, shape: tuple[int, ...], x: Tensor, p: float) -> Tensor:
    """What a dropout keeps of images, as 0 and 1 of the type of `x`: once per key.

    Args:
        keys: (K,).
        shape: of one net's images, (B, F) or (B, C, H, W).

    Returns:
        (K, B, F), or (B, K · C, H, W) channels last.
    """
    if x.device.type == "cpu":  # where an integer as key is several times faster
        like = x.new_empty(shape)
        masks = [kept(key, like, p) for key in keys.tolist()]
    else:
        masks = list((uniform(keys, shape, x.device) >= p).to(x.dtype))
    return torch.stack(masks) if len(shape) == 2 else torch.cat(masks, dim=1)


def _view(part: Tensor, count: int, parameter: Tensor) -> Tensor:
    """A stretch of the flat buffer as (nets, *shape); convolutions channels last, as their inputs are."""
    if parameter.dim() != 4:
        return part.view(count, *parameter.shape)
    outputs, inputs, height, width = parameter.shape
    return part.view(count, outputs, height, width, inputs).permute(0, 1, 4, 2, 3)
