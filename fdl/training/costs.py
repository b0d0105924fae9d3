"""Counts what the cells of a grid cost: images passed through nets, FLOPs and bytes. `plan` measures the speed."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fdl.core import layout, torchvision_nets
from fdl.core.errors import InputError
from fdl.core.grid import Cell
from fdl.core.head_settings import head_settings
from fdl.core.protocol import DATASETS, HEADS
from fdl.core.settings import Params
from fdl.data import prepare
from fdl.evaluation.overlap import COMPARED


@dataclass(frozen=True)
class Net:
    """Cost of one member for one image.

    FLOPs are those of convolutions and dense layers; a multiplication and an addition count as two.
    """

    forward: float  # FLOPs of a forward pass
    training: float  # FLOPs of a forward and a backward pass
    parameters: int  # numbers in its state: parameters and running statistics
    kept: int  # bytes of all layers' float32 outputs, which a training step keeps for the backward pass
    largest: int  # bytes of the largest output of a layer
    feature_map: int  # bytes of its feature map


@dataclass(frozen=True)
class Shape:
    """All that a `Net` depends on."""

    backbone: str
    dataset: str  # whose networks are built
    classes: int
    image_size: int
    width: float


@dataclass(frozen=True)
class Work:
    """Passes of single images through single nets, summed over all members of a cell and everything done with them."""

    shape: Shape
    members: int
    trained: int  # forward and backward passes
    evaluated: int  # forward passes
    mapped: int  # forward passes in float32 for class activation maps whose feature maps were not kept
    images: int  # number of different images in memory: training, validation and test
    tuned: int = 0  # those of `trained` that tune the members with a head, one ensemble at a time
    together: int = 1  # number of ensembles that are trained as one program (`fdl.training.fused`)

    @property
    def flops(self) -> float:
        """FLOPs of all passes."""
        net = count(self.shape)
        return self.trained * net.training + (self.evaluated + self.mapped) * net.forward


@dataclass(frozen=True)
class Sizes:
    """Numbers of classes and images of a dataset."""

    classes: int
    validation: int
    test: int
    prepared: bool  # True: counted in the prepared dataset; False: the authors' numbers


def sizes(params: Params, dataset: str, backbone: str) -> Sizes:
    """Numbers of images of a dataset.

    Raises:
        InputError: these are the user's own images and are not prepared yet.
    """
    folder = layout.prepared_folder(params, dataset, params.pool_of(dataset, backbone))
    if (file := folder / "dataset.json").is_file():
        return _prepared(folder.resolve(), file.stat().st_mtime_ns)
    if params.own(dataset):
        raise InputError(f"{dataset}: how many images there are is known after `python -m fdl data prepare {dataset}`")
    protocol = DATASETS[dataset]
    classes = len(protocol.classes)
    test = sum(protocol.test) if len(protocol.test) > 1 else protocol.test[0] * classes
    return Sizes(classes, protocol.validation * classes, test, False)


@cache
def _prepared(folder: Path, changed: int) -> Sizes:
    prepared = prepare.load(folder)
    return Sizes(len(prepared.classes), int((prepared.pools == 1).sum()), int((prepared.pools == 2).sum()), True)


def work(params: Params, cell: Cell) -> Work:
    """Count the passes through a cell's nets; raises as `sizes`."""
    settings, data = params.training_settings(cell), sizes(params, cell.dataset, cell.backbone)
    members, epochs, rules = settings["members"], settings["epochs"], len(settings["selections"])
    train, rates = cell.shots * data.classes, len(settings.get("learning_rates", [0]))
    validations = epochs // settings["evaluate_every"] if settings["evaluate_every"] else 1
    reestimated = train if settings["bn_statistics"] == "reestimate" else 0
    trained = rates * epochs * train
    evaluated = rates * validations * (data.validation + reestimated) + rules * (train + data.validation + data.test)
    shape = Shape(
        cell.backbone, settings.get("like", cell.dataset), data.classes, settings["image_size"], settings["width"]
    )
    tunings = 0
    if heads := head_settings(params, cell):
        validated = 0 if settings["selections"][0] == "last" else heads.tuning_epochs
        frozen = (1 + heads.epochs * heads.augment) * train
        tuned = (validated + 1) * (data.validation + reestimated) + data.test
        evaluated += len(heads.heads) * (frozen + (tuned if heads.tuning_epochs else 0))
        # The predictions on validation and test images are known, and the feature maps if they could be kept.
        reading_maps = sum(HEADS[head].reads == "maps" for head in heads.heads)
        for split in (data.validation, data.test):
            if not _is_kept(shape, members * split):
                evaluated += reading_maps * split
        tunings = len(heads.heads) * heads.tuning_epochs * train
    authors = torchvision_nets.parse(cell.backbone) is None
    maps_are_kept = authors and params.precision in ("float32", "tf32") and _is_kept(shape, members * data.test)
    mapped = 0 if maps_are_kept else 2 * min(COMPARED, data.test)
    images = train + data.validation + data.test
    trained += tunings
    return Work(
        shape, members, members * trained, members * evaluated, members * mapped, images, tuned=members * tunings
    )


def _is_kept(shape: Shape, maps: int) -> bool:
    """Whether a number of feature maps is small enough to keep them in memory for later use."""
    from fdl.evaluation.kept_maps import MOST_BYTES

    return maps * count(shape).feature_map <= MOST_BYTES


@cache
def count(shape: Shape) -> Net:
    """Count the cost of a net in a forward pass on one image, and derive that of the backward pass.

    Torch's own FLOP counter is not used, because it imports torch's compiler, which takes seconds in every process.
    """
    import torch
    from torch import nn
    from torch.overrides import TorchFunctionMode

    from fdl.models import build
    from fdl.training.extent import record_output_sizes

    flops = {"forward": 0, "backward": 0}

    class Products(TorchFunctionMode):
        """Counts the FLOPs of matrix products: two for every output and every element of the inner dimension.

        The gradient by each operand costs as much again; images need none.
        """

        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            output = func(*args, **(kwargs or {}))
            if func in (torch.conv2d, nn.functional.conv2d):
                row = args[1][0].numel()
            elif func in (nn.functional.linear, torch.matmul, torch.Tensor.matmul, torch.bmm):
                row = args[0].shape[-1]
            else:
                return output
            product = 2 * output.numel() * row
            flops["forward"] += product
            flops["backward"] += product * sum(operand.requires_grad for operand in args[:2])
            return output

    net = build(shape.backbone, shape.dataset, shape.classes, shape.image_size, shape.width).eval()
    outputs = record_output_sizes(net)
    with Products():
        _, feature_map = net(torch.zeros(1, 3, shape.image_size, shape.image_size))
    parameters = sum(value.numel() for value in net.state_dict().values())
    return Net(
        flops["forward"],
        flops["forward"] + flops["backward"],
        parameters,
        4 * sum(outputs),
        4 * max(outputs),
        4 * feature_map.numel(),
    )


_SMALL_FILES = 60_000  # bytes of a record's small files: settings, history, scores, the maps that are shown


@dataclass(frozen=True)
class Bytes:
    """Bytes that a bundle needs."""

    memory: int  # main memory of its process on a CPU, without the libraries
    gpu: int  # memory of a GPU if all its cells are fused; an estimate that was never compared with a GPU
    scratch: int  # largest size of the checkpoints below scratch/
    records: int  # final size of its records


def program_size(params: Params, cells: Iterable[Cell], device: str) -> int:
    """The largest number of cells of a bundle that are trained as one program (`fdl.training.fused`).

    On a GPU these are all cells that can be fused, on a CPU those of one seed.
    """
    if device == "cuda":
        return max(1, sum(params.fuses(cell) for cell in cells))
    cells_by_seed = Counter(cell.seed for cell in cells if params.fuses_on_cpu(cell))
    return max(cells_by_seed.values(), default=1)


def space(params: Params, cells: list[Cell], *, program: int = 1, all_wait: bool = False) -> Bytes:
    """Bytes that the cells of a bundle need.

    Args:
        params, cells: the settings, and cells of one bundle.
        program: number of cells that are trained at once, see `program_size`.
        all_wait: whether the trained nets of all cells are kept for another command, as `fdl train` does.
    """
    from fdl.training.state import EVALUATION_BATCH

    largest = max([work(params, cell) for cell in cells], key=lambda work: work.members * count(work.shape).parameters)
    net, batch = count(largest.shape), params.batch_size
    rules = len(params.selections_of(cells[0].dataset))
    weights = 4 * largest.members * net.parameters
    state = (3 + rules) * weights  # weights, two moments, the best of every rule
    images = 3 * largest.shape.image_size**2 * largest.images
    # Activations of a training step or of an evaluation, and gradients.
    step = max(largest.members * batch * net.kept, 2 * EVALUATION_BATCH * net.largest) + weights
    data = sizes(params, cells[0].dataset, cells[0].backbone)
    heads = head_settings(params, cells[0])
    train = cells[0].shots * data.classes
    outputs = rules * largest.members * (train + data.validation + data.test)
    outputs += len(heads.heads if heads else ()) * 2 * (data.validation + data.test)
    logits = 4 * outputs * data.classes
    # Two bytes per pair of members and image, for the rectified and for the signed maps.
    overlaps = largest.members * (largest.members - 1) * 2 * min(data.test, COMPARED)
    kept = rules * weights if params.keep_weights else 0
    waiting = len(cells) if program > 1 or all_wait else 1 if heads else 0
    return Bytes(
        memory=program * (state + step) + images,
        gpu=len(cells) * (state + weights + largest.members * batch * net.kept) + images,
        # A checkpoint and the one that replaces it, and trained nets that wait for heads or for their record.
        scratch=program * 2 * state + waiting * rules * weights,
        records=len(cells) * (logits + overlaps + kept + _SMALL_FILES),
    )
