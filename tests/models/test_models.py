"""The members are the authors' networks: counts, shapes, padding, batch norm, initial weights."""

import math

import pytest
import torch
from torch import nn

from fdl import models
from fdl.core.errors import InputError
from fdl.core.protocol import DATASETS
from fdl.models import build
from fdl.models.layers import DenseBatchNorm, Dropout, MaxPool32, Same, same_padding, set_dropout_key

# docs/reference.md 1.5: parameters, thereof trainable, feature map
TABLE = {
    ("cifar10", "alexnet"): (3_848_842, 3_848_138, (256, 4, 4)),
    ("cifar10", "vgg"): (1_675_210, 1_673_162, (256, 4, 4)),
    ("cifar10", "resnet"): (1_971_338, 1_967_754, (256, 4, 4)),
    ("cifar100", "alexnet"): (5_472_100, 5_471_396, (256, 4, 4)),
    ("cifar100", "vgg"): (3_891_108, 3_887_780, (256, 4, 4)),
    ("cifar100", "resnet"): (1_994_468, 1_990_884, (256, 4, 4)),
    ("miniimagenet", "alexnet"): (8_093_540, 8_092_836, (256, 6, 6)),
    ("miniimagenet", "vgg"): (14_253_476, 14_247_076, (512, 5, 5)),
    ("miniimagenet", "resnet"): (8_059_620, 8_051_940, (512, 5, 5)),
    ("neu", "alexnet"): (8_861_830, 8_861_126, (256, 13, 13)),
    ("neu", "vgg"): (17_084_614, 17_078_982, (512, 12, 12)),
    ("neu", "resnet"): (8_011_398, 8_003_718, (512, 12, 12)),
    ("bsd", "alexnet"): (4_929_154, 4_928_450, (256, 7, 7)),
    ("bsd", "vgg"): (10_006_210, 10_000_578, (512, 6, 6)),
    ("bsd", "resnet"): (8_009_346, 8_001_666, (512, 6, 6)),
    ("tex", "alexnet"): (3_848_326, 3_847_622, (256, 4, 4)),
    ("tex", "vgg"): (8_696_006, 8_690_374, (512, 4, 4)),
    ("tex", "resnet"): (8_011_398, 8_003_718, (512, 4, 4)),
}


@pytest.mark.parametrize(("dataset", "backbone"), TABLE)
def test_counts_and_shapes_equal_the_authors(dataset, backbone, monkeypatch):
    """Without memory and values, eighteen nets of the authors' width take a second."""
    total, trainable, shape = TABLE[dataset, backbone]
    monkeypatch.setattr(models, "_initialise", lambda *_: None)
    size, classes = DATASETS[dataset].image_size, len(DATASETS[dataset].classes)
    with torch.device("meta"):
        net = build(backbone, dataset)
        logits, feature_map = net.eval()(torch.empty(1, 3, size, size))
    assert sum(p.numel() for p in net.parameters()) == trainable
    moving = sum(b.numel() for name, b in net.named_buffers() if "num_batches" not in name)
    assert trainable + moving == total
    assert logits.shape == (1, classes)
    assert feature_map.shape == (1, *shape)


@pytest.mark.parametrize("size", [84, 50, 25, 13])
def test_pool_and_strided_convolution_pad_as_tensorflow(size):
    # docs/reference.md 10: even sizes pad after only, odd sizes on both sides.
    assert same_padding(size, 3, 2) == ((0, 1) if size % 2 == 0 else (1, 1))
    ramp = torch.arange(size * size, dtype=torch.float32).view(1, 1, size, size)
    pooled = MaxPool32()(ramp)
    assert pooled.shape[-1] == math.ceil(size / 2)
    last = min(2, size - 1) if size % 2 == 0 else 1  # the first window covers rows 0..2, or 0..1 after one of padding
    assert pooled[0, 0, 0, 0] == ramp[0, 0, last, last]


def test_each_axis_is_padded_by_its_own_side_and_never_cropped():
    assert same_padding(4, 1, 2) == (0, 0)  # a window that is smaller than its step
    padded = Same(3, 2)(torch.ones(1, 3, 8, 5))
    assert padded.shape == (1, 3, 9, 7)
    assert torch.equal(padded[0, 0].bool(), nn.functional.pad(torch.ones(8, 5), (1, 1, 0, 1)).bool())


@pytest.mark.parametrize("size", [(9, 9), (8, 8), (7, 4), (2, 2), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pool_is_one_over_an_image_padded_with_minus_infinity(size, dtype):
    """Value and gradient; half of the values are equal, as behind an activation, and share no gradient."""
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).relu().to(dtype)
    (top, bottom), (left, right) = (same_padding(side, 3, 2) for side in size)
    results = []
    for pool in (
        lambda x: nn.functional.max_pool2d(nn.functional.pad(x, (left, right, top, bottom), value=-math.inf), 3, 2),
        MaxPool32(),
    ):
        x = images.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
        pooled = pool(x)
        pooled.square().sum().backward()
        results.append((pooled, x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_dense_batch_norm_keeps_the_biased_variance_and_takes_one_image():
    layer = DenseBatchNorm(4)
    x = torch.randn(10, 4) * 3
    layer(x)
    expected = 0.99 * 1 + 0.01 * x.var(dim=0, unbiased=False)
    torch.testing.assert_close(layer.running_var, expected)
    reference = nn.BatchNorm1d(4, eps=1e-3)
    torch.testing.assert_close(layer(x), reference(x))
    assert torch.isfinite(layer(x[:1])).all()


@pytest.mark.parametrize("backbone", ["alexnet", "vgg", "resnet"])
def test_a_batch_of_one_image_trains(backbone):
    net = build(backbone, "cifar10", width=0.125)
    logits, _ = net.train()(torch.rand(1, 3, 32, 32))
    logits.sum().backward()


def test_initial_weights_have_keras_distributions():
    net = build("vgg", "neu", image_size=64)  # He-normal convolutions, He-normal hidden, Glorot output
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers[1:-1]:
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
        assert layer.weight.abs().max().item() <= 2 * math.sqrt(2 / fan_in) / 0.8796 * 1.0001  # truncated at 2 sigma
        assert layer.bias.abs().sum() == 0
    output = layers[-1].weight
    limit = math.sqrt(6 / sum(output.shape))
    assert 0.95 * limit < output.abs().max().item() <= limit
    uniform = next(m for m in build("vgg", "cifar10").modules() if isinstance(m, nn.Conv2d)).weight
    assert uniform.abs().max().item() <= math.sqrt(6 / 27)
    assert uniform.std().item() == pytest.approx(math.sqrt(2 / 27), rel=0.05)


def test_initial_weights_are_a_function_of_seed_and_member():
    def weights(seed, member):
        return torch.cat(
            [p.flatten() for p in build("resnet", "cifar10", width=0.25, init_seed=seed, member=member).parameters()]
        )

    assert torch.equal(weights(1, 2), weights(1, 2))
    for other in [(1, 3), (2, 2)]:
        assert not torch.equal(weights(1, 2), weights(*other))


def test_dropout_is_a_function_of_its_key():
    net = build("vgg", "cifar10", width=0.125).train()
    x = torch.rand(4, 3, 32, 32)

    def output(key):
        set_dropout_key(net, key)
        return net(x)[0]

    assert torch.equal(output(5), output(5))
    assert not torch.equal(output(5), output(6))
    set_dropout_key(net, None)
    assert not torch.equal(net(x)[0], net(x)[0])  # torch's own generator


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("alexnet", "cifar11"), "unknown dataset 'cifar11'"), (("lenet", "neu"), "unknown 'lenet'"),
     (("resnet", "neu", None, 8), "vanish")],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        build(*arguments)


def test_batch_norm_has_keras_defaults_everywhere():
    """docs/reference.md 1.1: momentum 0.99 for the moving averages, epsilon 1e-3."""
    for backbone in ("alexnet", "vgg", "resnet"):
        norms = [layer for layer in build(backbone, "neu", width=0.0625).modules() if "BatchNorm" in str(type(layer))]
        assert {(layer.momentum, layer.eps, layer.affine) for layer in norms} == {(0.01, 1e-3, True)}


def test_dense_batch_norm_scales_shifts_and_moves_its_averages():
    layer, reference = DenseBatchNorm(3), nn.BatchNorm1d(3, momentum=0.01, eps=1e-3)
    for norm in (layer, reference):
        norm.weight.data = torch.tensor([2.0, 0.5, -1.0])
        norm.bias.data = torch.tensor([3.0, -4.0, 0.25])
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 2 + 5
    torch.testing.assert_close(layer(x), reference(x))
    torch.testing.assert_close(layer.running_mean, reference.running_mean)
    torch.testing.assert_close(layer.running_mean, 0.01 * x.mean(0))
    layer.eval()
    expected = (x - layer.running_mean) / (layer.running_var + 1e-3).sqrt() * layer.weight + layer.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("key", [7, None])
def test_dropout_keeps_its_share_and_scales_it_up(key):
    layer, x = Dropout(0.2), torch.full((200, 50, 4), 3.0)
    layer.key = key
    dropped = layer(x)
    assert set(dropped.unique().tolist()) == {0.0, 3.75}
    assert (dropped == 0).double().mean().item() == pytest.approx(0.2, abs=4 * (0.16 / 40_000) ** 0.5)
    assert torch.equal(layer.eval()(x), x)
    never = Dropout(0)
    never.key = key
    assert torch.equal(never(x), x)


def test_every_dropout_layer_has_a_mask_of_its_own():
    net = nn.Sequential(Dropout(0.5), Dropout(0.5))
    set_dropout_key(net, 3)
    assert net[0].key != net[1].key
    set_dropout_key(net, None)
    assert net[0].key is net[1].key is None


def kinds(net):
    """Its layers without parts: their kind, with what docs/reference.md 1.2 to 1.4 says of it."""
    described = []
    for layer in net.modules():
        match layer:
            case nn.Conv2d():
                described.append(f"conv {layer.kernel_size[0]} / {layer.stride[0]}")
            case nn.MaxPool2d():
                described.append(f"pool {layer.kernel_size} / {layer.stride}")
            case nn.LeakyReLU():
                described.append(f"leaky {layer.negative_slope}")
            case Dropout():
                described.append(f"dropout {layer.p}")
            case nn.BatchNorm2d() | DenseBatchNorm() | nn.ReLU() | MaxPool32() | nn.Linear():
                described.append(type(layer).__name__)
    return described


CONV = ["conv 3 / 1", "BatchNorm2d"]


def test_alexnet_is_the_authors_layer_by_layer():
    for dataset, stride in (("cifar10", 1), ("neu", 2)):
        assert kinds(build("alexnet", dataset, width=0.0625)) == [
            *(f"conv 3 / {stride}", "BatchNorm2d", "ReLU", "MaxPool32", *CONV, "ReLU", "MaxPool32"),
            *(*["conv 3 / 1", "ReLU"] * 3, "MaxPool32", "Linear", "ReLU", "dropout 0.5", "Linear"),
        ]


@pytest.mark.parametrize(
    ("dataset", "convolutions"), [("cifar10", (2, 2, 2)), ("cifar100", (2, 2, 3)), ("neu", (2, 2, 3, 3))]
)
def test_vgg_is_the_authors_layer_by_layer(dataset, convolutions):
    blocks = [
        layer
        for count, p in zip(convolutions, (0.2, 0.3, 0.4, 0.5), strict=False)
        for layer in (*[*CONV, "ReLU"] * count, "pool 2 / 2", f"dropout {p}")
    ]
    head = ["Linear", "DenseBatchNorm", "ReLU", "dropout 0.5", "Linear"]
    assert kinds(build("vgg", dataset, width=0.0625)) == [*blocks, *head]


@pytest.mark.parametrize(("dataset", "blocks"), [("cifar100", 3), ("tex", 4)])
def test_resnet_is_the_authors_layer_by_layer(dataset, blocks):
    block = [*[*CONV, "leaky 0.1"] * 3, "conv 1 / 1", "BatchNorm2d", "leaky 0.1", "pool 2 / 2"]
    assert kinds(build("resnet", dataset, width=0.0625)) == [*block * blocks, "Linear"]


def test_a_resnet_block_adds_the_shortcut_to_the_activated_path():
    block = build("resnet", "cifar10", width=0.0625).features[0].eval()
    x = torch.rand(2, 3, 8, 8)
    total = block.main(x) + block.shortcut(x)
    expected = nn.functional.max_pool2d(torch.where(total > 0, total, 0.1 * total), 2)
    torch.testing.assert_close(block(x), expected)
