"""Names of torchvision's classifiers: what is accepted, what is said of the rest, how they are spelled."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fdl.core.errors import InputError
from fdl.core.grid import _BACKBONES
from fdl.core.protocol import BACKBONES
from fdl.core.settings import Bundle, Cell, Params, resolve
from fdl.core.titles import backbone_title
from fdl.core.torchvision_nets import checked, names, parse
from tests.projects import FILE


def settings(**overrides: Any) -> Params:
    return resolve(FILE, preset="demo", overrides=overrides)


def test_the_names_are_those_that_torchvision_registers() -> None:
    from torchvision import models

    assert set(names()) == set(models.list_models(module=models))


def test_a_name_is_stored_as_its_folder_is_called_in_either_spelling() -> None:
    for given in ("torchvision:resnet18", "torchvision-resnet18"):
        assert checked(given) == "torchvision-resnet18"
        assert checked(given + "@layer3.1") == "torchvision-resnet18@layer3.1"
    assert [checked(name) for name in BACKBONES] == list(BACKBONES)
    params = settings(backbones=["alexnet", "torchvision:alexnet"])
    assert {bundle.key.split("/")[1] for bundle in params.bundles()} == {"alexnet", "torchvision-alexnet"}
    # The resolved file holds the stored form: it must resolve to the same grid.
    assert resolve(params.model_dump(mode="json")).cells() == params.cells()


def test_the_schemas_pattern_takes_what_is_accepted() -> None:
    accepted = [*BACKBONES, *(f"torchvision:{name}" for name in names()), "torchvision-vgg16@features.28"]
    assert all(re.search(_BACKBONES, name) for name in accepted)
    assert not re.search(_BACKBONES, "lenet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alexnett", "unknown 'alexnett'; did you mean 'alexnet'?"),
        ("resnet18", "unknown 'resnet18'; did you mean 'torchvision:resnet18'?"),
        ("torchvision:resnet19", "torchvision has no classifier 'resnet19'; did you mean 'resnet18'?"),
        ("torchvision:", "torchvision has no classifier ''"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no classifier 'fasterrcnn_resnet50_fpn'"),
        ("torchvision:googlenet", "auxiliary outputs"),
        ("torchvision:inception_v3", "auxiliary outputs"),
        ("torchvision:vit_b_16", "tokens and has no feature map"),
        ("torchvision:resnet18@", "name a layer after @"),
        ("torchvision:resnet18@../../x", "name a layer after @"),
    ],
)
def test_a_wrong_backbone_is_named_in_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        settings(backbones=[name])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("params.yaml: backbones: ")


def test_settings_of_a_net_of_torchvision() -> None:
    """Constants that the authors did not choose, see docs/deviations.md; the width is the net's own."""
    params = settings(backbones=["torchvision:resnet18"], learning_rate=None, width=0.125)
    wanted = params.training_settings(Cell("neu", "torchvision-resnet18", 3, "fdl", 0))
    assert (wanted["learning_rate"], wanted["width"], wanted["variant"]) == (1e-3, 1.0, "torchvision")
    assert wanted["method_params"] == {"cosine_weight": 1, "gaussian_weight": 10}
    assert settings(backbones=["torchvision:resnet18"], learning_rate=0.5).training_settings(params.cells()[0])[
        "learning_rate"
    ] == pytest.approx(0.5)
    wider = settings(backbones=["torchvision:resnet18"], learning_rate=None, width=0.25)
    assert [params.settings_digest(cell) for cell in params.cells()] == [
        wider.settings_digest(cell) for cell in wider.cells()
    ]


def test_the_layer_is_part_of_the_cell() -> None:
    params = settings(backbones=["torchvision:resnet18", "torchvision:resnet18@layer3"])
    assert Bundle("neu", "torchvision-resnet18@layer3", 3) in params.bundles()
    assert len({params.settings_digest(cell) for cell in params.cells()}) == len(params.cells())


def test_weights_decide_the_digest_by_their_content(project: Path) -> None:
    file = project / "weights.pth"
    file.write_bytes(b"one")
    backbones = ["torchvision:resnet18", "torchvision:resnet18@layer3", "torchvision:resnet34"]
    given = {"backbones": backbones, "weights": {"torchvision:resnet18": str(file)}}

    def digests(**overrides: Any) -> dict[str, set[str]]:
        params = settings(**overrides)
        return {
            backbone: {params.settings_digest(cell) for cell in params.cells() if cell.backbone == backbone}
            for backbone in {cell.backbone for cell in params.cells()}
        }

    without, before = digests(backbones=backbones), digests(**given)
    changed = {backbone for backbone in without if not without[backbone] & before[backbone]}
    assert changed == {"torchvision-resnet18", "torchvision-resnet18@layer3"}
    moved = file.rename(project / "elsewhere.pth")
    given["weights"] = {"torchvision:resnet18": str(moved)}
    assert digests(**given) == before
    moved.write_bytes(b"another")
    assert not digests(**given)["torchvision-resnet18"] & before["torchvision-resnet18"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"torchvision:resnet18": "nowhere.pth"}, "weights: torchvision-resnet18: nowhere.pth: no such file"),
        ({"alexnet": "params.yaml"}, "weights: alexnet: only nets of torchvision"),
        ({"torchvision:resnet18@layer3": "params.yaml"}, "named without @"),
        ({"torchvision:resnet19": "params.yaml"}, "did you mean 'resnet18'"),
    ],
)
def test_wrong_weights_are_named_in_one_line(weights: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(weights=weights)


@pytest.mark.parametrize(
    ("backbone", "title"),
    [
        ("torchvision-resnet18", "torchvision ResNet-18"),
        ("torchvision-alexnet", "torchvision AlexNet"),
        ("torchvision-vgg16_bn@features.42", "torchvision VGG-16 bn at features.42"),
        ("torchvision-mobilenet_v3_small", "torchvision MobileNet v3 small"),
        ("torchvision-mnasnet0_75", "torchvision MNASNet-0.75"),
        ("torchvision-wide_resnet50_2", "torchvision Wide ResNet-50-2"),
        ("torchvision-regnet_x_1_6gf", "torchvision RegNet x 1.6gf"),
        ("alexnet", "AlexNet"),
    ],
)
def test_tables_say_which_net_ran(backbone: str, title: str) -> None:
    assert backbone_title(backbone) == title


def test_every_classifier_has_a_family_that_tables_can_name() -> None:
    for name in names():
        net = parse(f"torchvision:{name}")
        assert net is not None
        assert (
            name.startswith(("googlenet", "inception", "vit")) or backbone_title(f"torchvision-{name}")[12:13].strip()
        )


def test_neither_settings_nor_models_import_torchvision() -> None:
    """Snakemake reads the settings at every parse; the authors' networks need none of it."""
    code = (
        "import sys, fdl.core.settings, fdl.core.torchvision_nets as nets; nets.checked('torchvision:resnet18');"
        "assert 'torch' not in sys.modules;"
        "import fdl.models; fdl.models.build('alexnet', 'cifar10', width=0.1); assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
