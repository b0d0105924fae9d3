"""Photographs that were saved again, resized, mirrored or turned."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fdl.data.near_copies import NearCopy, Signatures, between_labels, between_pools

COUNT, SIZE = 40, 64


def saved_again(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


CHANGES = {
    "saved again": saved_again,
    "halved": lambda image: image.resize((32, 32), Image.Resampling.BILINEAR).resize((SIZE, SIZE)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "brighter": lambda image: image.point(lambda value: min(255, value + 20)),
}


@pytest.fixture(scope="module")
def photographs():
    """Different images of smooth patches and some noise, (N, H, W, 3)."""
    generator = np.random.default_rng(0)
    images = []
    for _ in range(COUNT):
        noise = Image.fromarray(generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
        smooth = np.asarray(noise.filter(ImageFilter.GaussianBlur(5)), float)
        images.append(np.clip((smooth - 128) * 6 + 128 + generator.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8))
    return np.stack(images)


@pytest.mark.parametrize("change", CHANGES)
def test_every_copy_is_found_and_no_other_image(photographs, change):
    copies = [np.asarray(CHANGES[change](Image.fromarray(image))) for image in photographs[:10]]
    signatures = Signatures(np.concatenate([photographs, copies]))
    pools = np.array([0] * COUNT + [1] * 5 + [2] * 5, np.int8)
    assert between_pools(signatures, pools) == [NearCopy(COUNT + number, number) for number in range(10)]


def test_copies_under_another_label_are_found_within_a_pool(photographs):
    copies = [np.asarray(saved_again(Image.fromarray(image))) for image in photographs[:3]]
    signatures = Signatures(np.concatenate([photographs, copies]))
    labels = np.array([0] * COUNT + [1] * 3, np.int16)
    assert between_labels(signatures, labels) == [NearCopy(number, COUNT + number) for number in range(3)]


def test_different_images_and_images_of_a_single_grey_are_no_copies(photographs):
    grey = np.stack([np.full((SIZE, SIZE, 3), value, np.uint8) for value in (0, 1, 128, 255)])
    signatures = Signatures(np.concatenate([photographs, grey]))
    assert between_pools(signatures, np.arange(COUNT + 4, dtype=np.int8) % 3) == []
    assert between_labels(signatures, np.arange(COUNT + 4, dtype=np.int16) % 2) == []
