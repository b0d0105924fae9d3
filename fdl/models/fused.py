"""Many members of one architecture as a single network, so that a GPU starts one kernel instead of one per net.

Each layer has one weight tensor for all nets. Convolutions are grouped, batch norm runs over the merged channels (its
statistics are per channel, so nets never mix), dense layers are batched matrix products. The results equal those of
the single nets up to rounding.

Letters in the shapes: G nets, B images, C channels, F features of a dense layer.
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
# For "training" (gradients enabled) and "evaluation": layer → its form in `convolutions.BACK_ENDS`; layers that are
# missing use "grouped".
BackEnds = Mapping[str, Mapping[str, str]]
# Largest number of elements in a vector register of a CPU. Torch's batch norm rounds the channels beyond a multiple of
# it differently. Which channels these are must not depend on how many nets there are, so on a CPU the channels are
# padded to a multiple.
LANES = 16


@dataclass
class Pass:
    """Options of a forward pass; the defaults are those of an evaluation."""

    # Batch norm uses the statistics of the batch and updates its moving averages with this momentum; None: it uses the
    # moving averages.
    momentum: float | None = None
    # int64 keys of the dropout masks, (inputs, members): nets with the same input and member share masks; None: no
    # dropout.
    dropout: Tensor | None = None
    images: Tensor | None = None  # (G, B) booleans, False for images that only fill up a short batch; None: all count
    folded: bool = False  # an evaluation with the weights that `FusedNets.fold` has computed


class FusedNets:
    """G nets of one architecture.

    Parameters and buffers have the names of a single net and a leading dimension of nets. The parameters are views of
    `flat`, and their gradients views of `gradient`; both end with some unused elements.

    Args:
        nets: nets of the same architecture, whose weights are copied. Nets with the same input are neighbours.
        inputs: number of different batches of images, each of which is the input of G / inputs nets.
        apart: compute in an order that makes each net's rounding independent of the number of nets, as is needed on a
            CPU: the first layer is called net by net. Otherwise the nets with the same input share one convolution
            there, which is faster on a GPU.
    """

    def __init__(self, nets: Sequence[Member], inputs: int = 1, *, apart: bool = False) -> None:
        if len(nets) % inputs:
            raise ValueError(f"{len(nets)} nets do not divide into {inputs} inputs")
        self.template, self.count, self.inputs, self.apart = nets[0], len(nets), inputs, apart
        first = next(nets[0].parameters())
        self._shapes = {name: parameter.detach() for name, parameter in nets[0].named_parameters()}
        total = len(nets) * sum(parameter.numel() for parameter in self._shapes.values())
        # Padded to a multiple of the vector registers, because a CPU rounds the elements beyond a multiple differently
        # and it must not depend on the number of nets which elements these are.
        total = -(-total // 64) * 64
        self.flat = torch.zeros(total, dtype=first.dtype, device=first.device)
        self.gradient = torch.zeros_like(self.flat)
        self.parameters = {name: view.requires_grad_() for name, view in self.parameter_views(self.flat).items()}
        for name, view in self.parameter_views(self.gradient).items():
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

    def parameter_views(self, flat: Tensor) -> State:
        """Views (G, *shape) of a tensor with the layout of `flat`, by name of the parameter."""
        parts, start = {}, 0
        for name, parameter in self._shapes.items():
            part = flat[start : (start := start + self.count * parameter.numel())]
            parts[name] = _view(part, self.count, parameter)
        return parts

    def state(self, net: int) -> State:
        """A copy of one net's parameters and buffers, with the names of its `state_dict`."""
        return {name: value[net].detach().clone() for name, value in (self.parameters | self.buffers).items()}

    @torch.no_grad()
    def load(self, net: int, state: State) -> None:
        """Copy a state, as from `state`, into one net."""
        for name, value in (self.parameters | self.buffers).items():
            value[net].copy_(state[name])

    @torch.no_grad()
    def fold(self, *, autocast: bool) -> None:
        """Compute the weights for evaluations with `Pass.folded`; their memory addresses stay the same.

        The batch norm that follows a convolution is folded into its weights, with the current moving statistics. The
        results equal those of both layers up to rounding, and a pass over every feature map is saved.

        Args:
            autocast: whether matrix products run in bfloat16; then the weights are cast here, once for all passes.
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

    def __call__(self, x: Tensor, options: Pass | None = None) -> tuple[Tensor, Tensor]:
        """Forward pass of all nets.

        Args:
            x: images (B, inputs · 3, H, W).
            options: how the pass is done; None: an evaluation.

        Returns:
            Logits (G, B, C) and feature maps (B, G, C', H', W').
        """
        options = options or Pass()
        merged = self._run(self.template.features, "features", x, options)
        batch, _, height, width = merged.shape
        logits = self._run(self.template.head, "head", merged, options)
        return logits, merged.view(batch, self.count, -1, height, width)

    def _run(self, module: nn.Module, name: str, x: Tensor, options: Pass) -> Tensor:
        """One layer of all nets: x is (B, G · C, H, W) before the head's `Flatten`, (G, B, F) after it."""
        weights = self._folded if options.folded and f"{name}.weight" in self._folded else self.parameters
        weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        match module:
            case nn.Sequential():
                for child, layer in module.named_children():
                    x = self._run(layer, f"{name}.{child}", x, options)
                return x
            case Block():
                main, shortcut = (
                    self._run(getattr(module, n), f"{name}.{n}", x, options) for n in ("main", "shortcut")
                )
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
                            convolutions.grouped(images[net * groups // self.count], *net_parameters, module)
                            for net, net_parameters in enumerate(zip(weight.split(1), bias.split(1), strict=True))
                        ],
                        dim=1,
                    )
                forms = self.back_ends.get("training" if torch.is_grad_enabled() else "evaluation", {})
                return convolutions.BACK_ENDS[forms.get(name, "grouped")](x, weight, bias, module)
            case nn.BatchNorm2d() if options.folded and name in self._norm_after.values():
                return x
            case DenseBatchNorm() | nn.BatchNorm2d():
                return self._normalise(module, name, x, options)
            case nn.Linear():
                assert weight is not None
                assert bias is not None
                return torch.baddbmm(bias[:, None], x, weight.mT)
            case nn.AdaptiveAvgPool2d() if self.apart:
                return x.flatten(2).contiguous().mean(dim=2)[..., None, None]
            case Dropout():
                return self._drop(module, x, options)
            case nn.Flatten():
                return x.view(len(x), self.count, -1, *x.shape[2:]).transpose(0, 1).flatten(2)
            case _:  # activations, pools and padding act on each channel separately
                result: Tensor = module(x)
                return result

    def _drop(self, module: Dropout, x: Tensor, options: Pass) -> Tensor:
        if options.dropout is None or module.p == 0:
            return x
        keys = absorb(options.dropout, self._dropout_index[module])
        inputs, members = keys.shape
        dense = x.dim() == 3
        shape = tuple(x.shape[1:]) if dense else (len(x), x.shape[1] // self.count, *x.shape[2:])
        nets = (inputs, self.count // keys.numel(), members)
        keep = _dropout_masks(keys.flatten(), shape, x, module.p)  # (K, B, F), or (B, K · C, H, W)
        if dense:
            masked_dense: Tensor = x.unflatten(0, nets) * keep.unflatten(0, (inputs, 1, members)) / (1 - module.p)
            return masked_dense.flatten(0, 2)
        masked: Tensor = x.unflatten(1, (*nets, -1)) * keep.unflatten(1, (inputs, 1, members, -1)) / (1 - module.p)
        return masked.flatten(1, 4)

    def _normalise(self, module: DenseBatchNorm | nn.BatchNorm2d, name: str, x: Tensor, options: Pass) -> Tensor:
        """Batch norm of one layer of all nets.

        After a dense layer the moving variance is the biased one, as in Keras (see `DenseBatchNorm`).
        """
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        mean, var = self.buffers[f"{name}.running_mean"], self.buffers[f"{name}.running_var"]
        dense = isinstance(module, DenseBatchNorm)
        if options.momentum is not None and not dense:
            self.buffers[f"{name}.num_batches_tracked"].add_(1)
        if not dense and options.images is None:
            padding = -x.shape[1] % LANES if self.apart else 0
            merged = [functional.pad(value.flatten(), (0, padding)) for value in (mean, var, weight, bias)]
            if padding:
                x = functional.pad(x, (0, 0, 0, 0, 0, padding)).contiguous(memory_format=torch.channels_last)
            else:
                merged[:2] = mean.flatten(), var.flatten()  # views, which are updated in place
            training, momentum = options.momentum is not None, options.momentum or 0.0
            normalised = functional.batch_norm(
                x, merged[0], merged[1], merged[2], merged[3], training, momentum=momentum, eps=module.eps
            )
            if not padding:
                return normalised
            # The gradient of the slice below is channels first, for which another kernel would be called.
            if normalised.requires_grad:
                normalised.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
            if training:
                for updated, buffer in zip(merged, (mean, var), strict=False):
                    buffer.copy_(updated[:-padding].view_as(buffer))
            return normalised[:, :-padding].contiguous(memory_format=torch.channels_last)
        precise = torch.promote_types(x.dtype, torch.float32)
        if options.images is not None and not dense:
            assert options.momentum is not None
            # (G, 1), number of elements of a channel that count
            number = options.images.sum(dim=1, keepdim=True).to(precise) * x[0, 0].numel()
            share = (options.images / number).mT[..., None].expand(-1, *mean.shape).flatten(1)  # (B, G · C)
            normalised, *moments = short_batches.batch_norm(x, weight.flatten(), bias.flatten(), share, module.eps)
            batch_mean, batch_var = (value.view_as(mean) for value in moments)
            mean.lerp_(batch_mean.to(mean.dtype), options.momentum)
            var.lerp_((batch_var * number / (number - 1)).to(var.dtype), options.momentum)
            return normalised
        x = x.to(precise)  # (G, B, F)
        if options.momentum is None:
            batch_mean, batch_var = mean, var
        else:
            batch_mean, batch_var = self._statistics(x, options.images)
            mean.lerp_(batch_mean.detach().to(mean.dtype), options.momentum)
            var.lerp_(batch_var.detach().to(var.dtype), options.momentum)
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
    """Names of the convolutions that are followed by batch norm, each with the name of that batch norm."""
    norms: dict[str, str] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Sequential):
            for (before, layer), (after, norm) in pairwise(module.named_children()):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    norms[f"{name}.{before}"] = f"{name}.{after}"
    return norms


def _dropout_masks(keys: Tensor, shape: tuple[int, ...], x: Tensor, p: float) -> Tensor:
    """Dropout masks of 0 and 1, one per key.

    Args:
        keys: int64 (K,).
        shape: shape of one net's activations, (B, F) or (B, C, H, W).
        x: gives type and device of the masks.
        p: probability of a 0.

    Returns:
        (K, B, F), or (B, K · C, H, W) channels last.
    """
    if x.device.type == "cpu":  # here a Python integer as key is several times faster than a tensor
        one_net = x.new_empty(shape)
        masks = [kept(key, one_net, p) for key in keys.tolist()]
    else:
        masks = list((uniform(keys, shape, x.device) >= p).to(x.dtype))
    return torch.stack(masks) if len(shape) == 2 else torch.cat(masks, dim=1)


def _view(part: Tensor, count: int, parameter: Tensor) -> Tensor:
    """A part of the flat buffer as (nets, *shape); weights of convolutions are channels last, as their inputs are."""
    if parameter.dim() != 4:
        return part.view(count, *parameter.shape)
    outputs, inputs, height, width = parameter.shape
    return part.view(count, outputs, height, width, inputs).permute(0, 1, 4, 2, 3)
