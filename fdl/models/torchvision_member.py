"""Members that are torchvision's classifiers, with torchvision's own initial weights or those of a file.

The feature map is the last square activation of more than one cell before the classifier's head, as the
output of a layer that stands at the top of the net or directly in one of its blocks; or that of the layer
that the backbone names: `torchvision:resnet18@layer3`.

Three things differ from torchvision's modules, none of them a weight: dropout and stochastic depth are
functions of a key, no activation works in place (the feature map must stay what it was), and a batch with a
single value per channel passes batch norm.
"""

import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torchvision import models, ops
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from fdl.core.errors import InputError, did_you_mean, one_line
from fdl.core.randomness import derive, uniform
from fdl.core.torchvision_nets import PublishedNet
from fdl.models.layers import Dropout

_HEADS = ("avgpool", "classifier", "fc", "head")  # torchvision's names for what follows the last feature map
_LARGER = (32, 48, 64, 96, 128, 224)  # pixels: tried, to advise one


class PublishedMember(nn.Module):
    """One of torchvision's classifiers as a net of an ensemble.

    Args:
        net: gives `{"map": ..., "logits": ...}`.
        mean, std: of the images that its weights were trained on, per channel; None: images stay in [0, 1].
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, net: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        super().__init__()
        self.net = net
        for name, values in (("mean", mean), ("std", std)):
            constant = None if values is None else torch.tensor(values).view(3, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in [0, 1] → logits (B, num_classes), feature map (B, C', H', W')."""
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        outputs = self.net(x)
        return outputs["logits"], outputs["map"]


def build(
    net: PublishedNet, num_classes: int, image_size: int, *, init_seed: int, member: int, weights: str | None = None
) -> PublishedMember:
    """Build one member on the CPU in float32.

    Args:
        net: which classifier, and whose output is its feature map.
        num_classes: outputs.
        image_size: side of the square images in pixels.
        init_seed, member: the keys of the initial weights.
        weights: file to start from (safetensors, or what `torch.save` wrote of a state dict); the output
            layer keeps its random weights where the file has another number of classes.

    Raises:
        InputError: the images are too small, there is no such layer, or the weights are of another net.
    """
    node = feature_node(net, image_size)
    model = _classifier(net.name, num_classes, init_seed, member)
    mean = std = None
    if weights:
        _load(model, net.name, weights)
        # Its weights are not looked at: only how the images were prepared that they were trained on.
        preset = models.get_model_weights(net.name).DEFAULT.transforms()
        mean, std = preset.mean, preset.std
    train, evaluation = get_graph_node_names(model, tracer_kwargs=_TRACER)
    extractor = create_feature_extractor(
        model,
        train_return_nodes={node: "map", train[-1]: "logits"},
        eval_return_nodes={node: "map", evaluation[-1]: "logits"},
        tracer_kwargs=_TRACER,
        suppress_diff_warning=True,
    )
    # One graph for both modes: what differs in training is inside layers, which know their mode. (Torchvision
    # keeps two, and a copy of its module is in training mode whatever the original was in.)
    return PublishedMember(fx.GraphModule(extractor, extractor.eval_graph), mean, std)


@cache
def feature_node(net: PublishedNet, image_size: int) -> str:
    """Name of the layer whose output is the feature map of images of this size.

    Raises:
        InputError: as `build`.
    """
    model = _classifier(net.name, 2, 0, 0).eval()
    if not _takes(model, image_size):
        fitting = next((size for size in _LARGER if size > image_size and _takes(model, size)), None)
        advice = f"set image_size to {fitting}" if fitting else "choose another net"
        raise InputError(f"torchvision:{net.name} does not take images of {image_size} pixels; {advice}")
    outputs = _activations(model, image_size)
    last: dict[str, str] = {}  # a layer → the last operation in it, which gives its output
    for name in outputs:
        parts = name.split(".")
        last |= {".".join(parts[: depth + 1]): name for depth in range(len(parts))}
    if net.node:
        return _named(net, net.node, last, outputs)
    for name in reversed(outputs):
        parts = name.split(".")
        shallow = [layer for layer in (parts[0], ".".join(parts[:2])) if last[layer] == name]
        if shallow and parts[0] not in _HEADS and _is_map(outputs[name]):
            return shallow[0]
    raise InputError(
        f"torchvision:{net.name}: no feature map of more than one cell at {image_size} pixels; set a larger image_size"
    )


def _named(net: PublishedNet, node: str, last: dict[str, str], outputs: dict[str, Any]) -> str:
    if node not in last:
        hint = did_you_mean(node, last, f"there are: {', '.join(name for name in last if '.' not in name)}")
        raise InputError(f"torchvision:{net.name} has no layer {node!r}; {hint}")
    output = outputs[last[node]]
    if not _is_map(output):
        shape = " × ".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"torchvision:{net.name}: the output of {node!r} is no feature map of more than one cell: {shape}"
        )
    return node


def _is_map(output: Any) -> bool:
    """Channels before two equal sides: images are square, so this tells a map from channels that stand last."""
    return isinstance(output, Tensor) and output.dim() == 4 and output.shape[-2] == output.shape[-1] > 1


@torch.no_grad()
def _takes(model: nn.Module, image_size: int) -> bool:
    try:
        model(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


@torch.no_grad()
def _activations(model: nn.Module, image_size: int) -> dict[str, Any]:
    """Output of every operation of a net in evaluation mode, in order, without its input."""
    train, evaluation = get_graph_node_names(model, tracer_kwargs=_TRACER)
    extractor = create_feature_extractor(
        model,
        train_return_nodes=train[-1:],
        eval_return_nodes=evaluation[1:],
        tracer_kwargs=_TRACER,
        suppress_diff_warning=True,
    )
    outputs: dict[str, Any] = extractor.eval()(torch.zeros(1, 3, image_size, image_size))
    return outputs


def _classifier(name: str, num_classes: int, init_seed: int, member: int) -> nn.Module:
    """The net with its own initial weights, drawn from torch's CPU generator, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would seed every GPU too.
        torch.default_generator.manual_seed(derive(init_seed, "weights", member))
        model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Dropout):
            model.set_submodule(path, Dropout(module.p))
        elif isinstance(module, ops.StochasticDepth):
            model.set_submodule(path, _StochasticDepth(module.p))
        elif type(module) is nn.BatchNorm2d:
            model.set_submodule(path, _BatchNorm2d(module))
        elif getattr(module, "inplace", False):
            module.inplace = False
    return model


class _StochasticDepth(Dropout):
    """Leaves a block out for some images of a batch, by its key; torchvision's `StochasticDepth` of mode "row"."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) → the same shape."""
        if not self.training or self.p == 0:
            return x
        if self.key is None:
            dropped: Tensor = ops.stochastic_depth(x, self.p, "row")
            return dropped
        keep = uniform(self.key, (len(x),), x.device) >= self.p
        return x * keep.view(-1, *[1] * (x.dim() - 1)) / (1 - self.p)


class _BatchNorm2d(nn.BatchNorm2d):
    """Takes a batch with one value per channel (one image, one cell), which torch's own refuses.

    Such a value has no variance: it is normalised by the moving averages, and they stay as they are.
    """

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum)
        self.load_state_dict(layer.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        if self.training and x.numel() == x.shape[1]:
            mean, variance = self.running_mean, self.running_var
            return functional.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


_TRACER = {"leaf_modules": [Dropout, _StochasticDepth, _BatchNorm2d]}


def _load(model: nn.Module, name: str, file: str) -> None:
    """Put the weights of a file into a net."""
    given = _read(file)
    own = model.state_dict()
    output = next(reversed(own)).rpartition(".")[0] + "."
    if any(key.startswith(output) and own[key].shape != given[key].shape for key in own.keys() & given.keys()):
        given = {key: value for key, value in given.items() if not key.startswith(output)} | {
            key: value for key, value in own.items() if key.startswith(output)
        }
    # Files older than torch 0.4.1 do not count batches; nothing here asks for it.
    asked = {key for key in own if not key.endswith("num_batches_tracked")}
    wrong = (asked - given.keys()) | (given.keys() - own.keys())
    wrong |= {key for key in asked & given.keys() if own[key].shape != given[key].shape}
    if wrong:
        raise InputError(
            f"weights: {file} is not of torchvision:{name}: {len(wrong)} tensors differ, first {min(wrong)!r}"
        )
    for key in sorted(asked):
        if given[key].dtype != own[key].dtype and not given[key].is_floating_point():
            # Torch would convert them without a word; quantised weights need their scale.
            raise InputError(f"weights: {file}: {key!r} holds {given[key].dtype} where weights are floating-point")
        if not given[key].isfinite().all():
            raise InputError(f"weights: {file}: {key!r} holds values that are not finite")
    model.load_state_dict(given, strict=False)


def _read(file: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if Path(file).suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Torch's message recommends switching this check off, which would run whatever code the file holds.
        raise InputError(
            f"weights: {file} is damaged, or holds more than tensors; save only the weights, with "
            "`torch.save(net.state_dict(), file)` or as safetensors"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError) as error:
        reason = one_line(error)[:200]
        raise InputError(f"weights: {file} cannot be read: {type(error).__name__}: {reason}") from None
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise InputError(f"weights: {file} holds no state dict, a mapping of names to tensors")
    return dict(state)
