"""The published index lists: what the generator writes, the authors' numbers, and use with the real files' labels."""

import json
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from fdl.data import make_splits

# docs/reference.md 4.2: (class, position within the class's pool) of the first five images of the authors' 3-shot draw.
AUTHORS = {
    "cifar10": [(5, 1952), (0, 1577), (7, 894), (4, 1242), (2, 1060)],
    "cifar10-pool3750": [(5, 3652), (0, 1577), (9, 2181), (4, 1466), (2, 1060)],
    "cifar100": [(39, 268), (74, 29), (73, 392), (46, 249), (82, 287)],
}
LISTS = list(AUTHORS)


def published(dataset: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((make_splits.FOLDER / f"{dataset}.json").read_bytes())
    return content


@pytest.mark.parametrize("dataset", LISTS)
def test_the_generator_writes_the_published_file(dataset: str) -> None:
    text = (make_splits.FOLDER / f"{dataset}.json").read_text()
    assert text == make_splits.to_text(make_splits.make(dataset))


@pytest.mark.parametrize("dataset", LISTS)
def test_seed_0_is_the_authors_draw(dataset: str) -> None:
    content = published(dataset)
    per_class = len(content["pool"][0])
    assert [divmod(entry, per_class) for entry in content["draws"]["3"][0][:5]] == AUTHORS[dataset]


@pytest.mark.parametrize(
    ("dataset", "per_class", "validation"),
    [("cifar10", 4000, 200), ("cifar10-pool3750", 3750, 200), ("cifar100", 400, 20)],
)
def test_every_draw_holds_k_images_per_class_once(dataset: str, per_class: int, validation: int) -> None:
    content = published(dataset)
    classes = len(content["classes"])
    for pool, held_out in zip(content["pool"], content["validation"], strict=True):
        assert (len(set(pool)), len(set(held_out))) == (per_class, validation)
        assert not set(pool) & set(held_out)
        assert {*pool, *held_out} <= set(range(content["images"]))
    assert list(content["draws"]) == ["3", "5", "10", "20", "50", "100", "400"]
    for shots, draws in content["draws"].items():
        assert len(draws) == (5 if int(shots) < per_class else 1)
        assert len({tuple(draw) for draw in draws}) == len(draws)
        for draw in draws:
            assert len(set(draw)) == len(draw)
            assert np.bincount(np.array(draw) // per_class).tolist() == [int(shots)] * classes


@pytest.mark.parametrize("dataset", LISTS)
def test_ranks_give_the_authors_hold_out_whatever_the_order_of_the_file(dataset: str) -> None:
    content = published(dataset)
    classes = np.repeat(np.arange(len(content["classes"])), content["images"])
    labels = np.random.default_rng(3).permutation(classes)
    # As the authors wrote it (docs/reference.md 4.1): a number of images, or for VGG and ResNet on CIFAR-10 a share.
    hold_out = 0.25 if dataset == "cifar10-pool3750" else 10_000
    pool, held_out = train_test_split(np.arange(50_000), test_size=hold_out, random_state=0, stratify=labels)
    size = sum(map(len, content["validation"]))
    _, validation = train_test_split(held_out, test_size=size, random_state=0, stratify=labels[held_out])
    for name, chosen in (("pool", pool), ("validation", validation)):
        for label, ranks in enumerate(content[name]):
            np.testing.assert_array_equal(np.flatnonzero(labels == label)[ranks], chosen[labels[chosen] == label])
