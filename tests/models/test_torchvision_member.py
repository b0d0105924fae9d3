"""Torchvision's classifiers as members: their own nets, a feature map by rule, keyed randomness, weights of a file."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from fdl.core.errors import InputError
from fdl.core.torchvision_nets import PublishedNet
from fdl.models import build
from fdl.models.layers import set_dropout_key
from fdl.models.torchvision_member import PublishedMember, feature_node

# Image size → the layer whose output is the feature map, and its shape.
MAPS = {
    ("resnet18", 64): ("layer4", (512, 2, 2)),
    ("resnet18", 32): ("layer3", (256, 2, 2)),  # layer4's map is a single cell
    ("alexnet", 64): ("features.11", (256, 3, 3)),
    ("vgg11_bn", 64): ("features", (512, 2, 2)),
    ("mobilenet_v3_small", 64): ("features", (576, 2, 2)),
    ("densenet121", 64): ("relu", (1024, 2, 2)),
    ("squeezenet1_1", 64): ("features", (512, 3, 3)),
    ("efficientnet_b0", 64): ("features", (1280, 2, 2)),
    ("convnext_tiny", 64): ("features", (768, 2, 2)),
    ("swin_t", 64): ("permute", (768, 2, 2)),
}


def build_net(name: str = "resnet18", size: int = 32, *, init_seed: int = 0, member: int = 0) -> PublishedMember:
    net = build(f"torchvision:{name}", "neu", 6, size, init_seed=init_seed, member=member)
    assert isinstance(net, PublishedMember)
    return net


def numbers(net: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


@pytest.mark.parametrize(("name", "size"), MAPS)
def test_a_member_is_torchvisions_net_with_a_feature_map(name: str, size: int) -> None:
    node, shape = MAPS[name, size]
    assert feature_node(PublishedNet(name, None), size) == node
    images = torch.rand(2, 3, size, size)
    state = torch.get_rng_state()
    net = build_net(name, size).train()
    set_dropout_key(net, 3)
    logits, feature_map = net(images)
    assert torch.equal(state, torch.get_rng_state()), "torch's own generator was used"
    assert (logits.shape, feature_map.shape) == ((2, 6), (2, *shape))
    # Grad-CAM and the distance loss need the graph between the two.
    (gradient,) = torch.autograd.grad(logits.sum(), feature_map)
    assert gradient.abs().sum() > 0
    theirs = models.get_model(name, weights=None, num_classes=6)
    own = [parameter.shape for parameter in theirs.parameters()]
    assert sum(shape.numel() for shape in own) == numbers(net).numel()
    # With its weights torchvision's own module says the same, and so does a copy.
    theirs.load_state_dict({name.removeprefix("net."): value for name, value in net.state_dict().items()})
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(net(images)[0], theirs.eval()(images))
        assert torch.equal(copy.deepcopy(net)(images)[0], net(images)[0])


def test_initial_weights_are_torchvisions_and_a_function_of_seed_and_member() -> None:
    first = numbers(build_net(init_seed=1, member=2))
    assert torch.equal(first, numbers(build_net(init_seed=1, member=2)))
    for seed, number in ((1, 3), (2, 2)):
        assert not torch.equal(first, numbers(build_net(init_seed=seed, member=number)))
    theirs = dict(models.resnet18(num_classes=6).named_parameters())
    for name, parameter in build_net().net.named_parameters():
        if parameter.numel() >= 1000 or not parameter.std():  # the spread of the head's six biases is chance
            assert parameter.std().item() == pytest.approx(theirs[name].std().item(), rel=0.1)


@pytest.mark.parametrize(("name", "size"), [("alexnet", 64), ("efficientnet_b0", 32)])
def test_dropout_and_stochastic_depth_are_functions_of_the_key(name: str, size: int) -> None:
    net = build_net(name, size).train()
    for module in net.modules():  # what batch statistics do is not meant here
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = torch.rand(4, 3, size, size)

    def output(key: int) -> Tensor:
        set_dropout_key(net, key)
        logits: Tensor = net(images)[0]
        return logits

    assert torch.equal(output(5), output(5))
    assert not torch.equal(output(5), output(6))


def test_a_batch_of_one_image_trains_where_maps_are_single_cells() -> None:
    """Seven classes of three images leave one; at 32 pixels layer4 has one value per channel."""
    net = build_net().train()
    before = {
        name: value.clone() for name, value in net.state_dict().items() if name.endswith("layer4.1.bn2.running_var")
    }
    net(torch.rand(1, 3, 32, 32))[0].sum().backward()
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    net(torch.rand(2, 3, 32, 32))
    assert not any(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


def test_a_layer_can_be_named() -> None:
    net = build("torchvision:resnet18@layer2.0", "neu", 6, 32)
    assert net.eval()(torch.rand(1, 3, 32, 32))[1].shape == (1, 128, 4, 4)


@pytest.mark.parametrize(
    ("backbone", "size", "message"),
    [
        ("torchvision:alexnet", 32, "does not take images of 32 pixels; set image_size to 64"),
        ("torchvision:swin_t", 32, "no feature map of more than one cell at 32 pixels"),
        ("torchvision:resnet18@layer9", 32, "no layer 'layer9'; did you mean 'layer4'"),
        ("torchvision:resnet18@layer4", 32, "'layer4' is no feature map of more than one cell: 512 × 1 × 1"),
        ("torchvision:resnet18@fc", 64, "'fc' is no feature map"),
        ("torchvision:resnet19", 32, "no classifier 'resnet19'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    backbone: str, size: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=message) as error:
        build(backbone, "neu", 6, size)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file(tmp_path: Path, suffix: str) -> None:
    """As published ones: of 1000 classes, and so without an output layer for these."""
    published = models.resnet18(num_classes=1000).state_dict()
    file = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(published, file)
    else:
        save_file(published, file)
    nets = [build("torchvision:resnet18", "neu", 6, 64, member=m, weights=str(file)) for m in range(2)]
    for name, value in published.items():
        if not name.startswith("fc."):
            assert all(torch.equal(net.state_dict()[f"net.{name}"], value) for net in nets), name
    output = [net.state_dict()["net.fc.weight"] for net in nets]
    assert not torch.equal(*output)
    assert torch.equal(output[0], build_net(size=64).state_dict()["net.fc.weight"])
    # Such weights want the images normalised as they were trained on: ImageNet's constants.
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    theirs = models.resnet18(num_classes=6).eval()
    theirs.load_state_dict({name.removeprefix("net."): value for name, value in nets[0].state_dict().items()})
    with torch.no_grad():
        torch.testing.assert_close(nets[0].eval()(images)[0], theirs((images - mean) / std))


def test_weights_with_as_many_classes_keep_their_output_layer(tmp_path: Path) -> None:
    state = models.resnet18(num_classes=6).state_dict()
    save_file(state, tmp_path / "six.safetensors")
    net = build("torchvision:resnet18", "neu", 6, 64, weights=str(tmp_path / "six.safetensors"))
    assert torch.equal(net.state_dict()["net.fc.weight"], state["fc.weight"])


class Harmful:
    """What a hostile file would hold."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("harm", "w")


@pytest.mark.parametrize("case", ["another net", "no tensors", "not weights", "code", "integers", "infinite"])
def test_wrong_weights_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.pth"
    state = models.resnet18(num_classes=6).state_dict()
    content: dict[str, object] = {
        "another net": models.resnet34(num_classes=6).state_dict(),
        "no tensors": {"state_dict": {}, "epoch": 3},
        "code": Harmful(),
        "integers": {name: (100 * value).to(torch.int8) for name, value in state.items()},
        "infinite": state | {"conv1.weight": state["conv1.weight"] / 0},
    }
    if case == "not weights":
        file.write_text("<html>404</html>")
    else:
        torch.save(content[case], file)
    with pytest.raises(InputError, match=r"^weights: .*weights\.pth") as error:
        build("torchvision:resnet18", "neu", 6, 64, weights=str(file))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()
    assert "weights_only" not in str(error.value), "torch recommends to run the code"
