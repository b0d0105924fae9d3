"""Members that are torchvision's classifiers, with torchvision's own initial weights or those of a file.

The feature map is the output of the layer that the backbone names, as in `torchvision:resnet18@layer3`. Without a name
it is the last activation before the classifier's head that is square and larger than 1 × 1; only outputs of top-level
modules and of their direct children are considered.

The modules differ from torchvision's in three respects, none of which concerns the weights: dropout and stochastic
depth are functions of a random key, no activation works in place (it would overwrite the feature map), and batch norm
accepts a batch with a single value per channel.
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

_HEADS = ("avgpool", "classifier", "fc", "head")  # torchvision's names of the modules after the last feature map
_LARGER = (32, 48, 64, 96, 128, 224)  # image sizes in pixels that are tried, to recommend one


class PublishedMember(nn.Module):
    """One of torchvision's classifiers as a net of an ensemble.

    Args:
        net: returns `{"map": ..., "logits": ...}`.
        mean, std: the constants per channel with which images are normalised; None: they stay in [0, 1].
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
        net: the name of the classifier, and that of the layer whose output is the feature map.
        num_classes: number of outputs.
        image_size: side of the square images in pixels.
        init_seed, member: seed of the ensemble's initial weights, and number of the member.
        weights: file with initial weights (safetensors, or a state dict written by `torch.save`); the output
            layer keeps its random weights if the file has another number of classes.

    Raises:
        InputError: the images are too small, there is no such layer, or the weights are of another net.
    """
    node = feature_node(net, image_size)
    model = _classifier(net.name, num_classes, init_seed, member)
    mean = std = None
    if weights:
        _load(model, net.name, weights)
        # Torchvision's own weights are not loaded; only the normalisation of their training images is read.
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
    # One graph serves both modes, because only layers that know their mode behave differently in training. Torchvision
    # keeps a graph for each mode, and a copy of its module is always in training mode.
    return PublishedMember(fx.GraphModule(extractor, extractor.eval_graph), mean, std)


@cache
def feature_node(net: PublishedNet, image_size: int) -> str:
    """Name of the layer whose output is the feature map for images of this size in pixels.

    Raises:
        InputError: as `build`.
    """
    model = _classifier(net.name, 2, 0, 0).eval()
    if not _accepts(model, image_size):
        fitting = next((size for size in _LARGER if size > image_size and _accepts(model, size)), None)
        advice = f"set image_size to {fitting}" if fitting else "choose another net"
        raise InputError(f"torchvision:{net.name} does not take images of {image_size} pixels; {advice}")
    outputs = _activations(model, image_size)
    last: dict[str, str] = {}  # layer → the last operation in it, which returns its output
    for name in outputs:
        parts = name.split(".")
        last |= {".".join(parts[: depth + 1]): name for depth in range(len(parts))}
    if net.node:
        return _named_layer(net, net.node, last, outputs)
    for name in reversed(outputs):
        parts = name.split(".")
        shallow = [layer for layer in (parts[0], ".".join(parts[:2])) if last[layer] == name]
        if shallow and parts[0] not in _HEADS and _is_map(outputs[name]):
            return shallow[0]
    raise InputError(
        f"torchvision:{net.name}: no feature map of more than one cell at {image_size} pixels; set a larger image_size"
    )


def _named_layer(net: PublishedNet, node: str, last: dict[str, str], outputs: dict[str, Any]) -> str:
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
    """Whether an output is (B, C, H, W) with H = W > 1. As images are square, this excludes channels-last layouts."""
    return isinstance(output, Tensor) and output.dim() == 4 and output.shape[-2] == output.shape[-1] > 1


@torch.no_grad()
def _accepts(model: nn.Module, image_size: int) -> bool:
    try:
        model(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


@torch.no_grad()
def _activations(model: nn.Module, image_size: int) -> dict[str, Any]:
    """Outputs of all operations of a net in evaluation mode by name, in order; the input is left out."""
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
    """The net with torchvision's initialisation, drawn from torch's CPU generator, whose state is restored."""
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
    """Torchvision's `StochasticDepth` in mode "row", which drops a block for some images; the key decides which."""

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
    """Batch norm that accepts a batch with one value per channel (one image of 1 × 1), which torch's own refuses.

    Such a value has no variance, so it is normalised by the moving averages, which are not updated.
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
    """Load the weights of a file into a net; raises `InputError` if they do not fit."""
    loaded = _read(file)
    expected = model.state_dict()
    output_layer = next(reversed(expected)).rpartition(".")[0] + "."
    if any(
        key.startswith(output_layer) and expected[key].shape != loaded[key].shape
        for key in expected.keys() & loaded.keys()
    ):
        loaded = {key: value for key, value in loaded.items() if not key.startswith(output_layer)} | {
            key: value for key, value in expected.items() if key.startswith(output_layer)
        }
    # Files from before torch 0.4.1 lack the batch counters, which are not used here.
    required = {key for key in expected if not key.endswith("num_batches_tracked")}
    mismatched = (required - loaded.keys()) | (loaded.keys() - expected.keys())
    mismatched |= {key for key in required & loaded.keys() if expected[key].shape != loaded[key].shape}
    if mismatched:
        raise InputError(
            f"weights: {file} is not of torchvision:{name}: {len(mismatched)} tensors differ, first {min(mismatched)!r}"
        )
    for key in sorted(required):
        if loaded[key].dtype != expected[key].dtype and not loaded[key].is_floating_point():
            # Torch would convert them silently, but quantised weights are meaningless without their scale.
            raise InputError(f"weights: {file}: {key!r} holds {loaded[key].dtype} where weights are floating-point")
        if not loaded[key].isfinite().all():
            raise InputError(f"weights: {file}: {key!r} holds values that are not finite")
    model.load_state_dict(loaded, strict=False)


def _read(file: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if Path(file).suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Torch's own message recommends `weights_only=False`, which would run any code that the file holds.
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
