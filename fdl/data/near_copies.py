"""Finds near-copies: photographs that were saved again, resized, mirrored or turned.

Two steps: the nearest image by ImageHash's perceptual hash, then, if that is near, the correlation of both at 32 × 32
pixels. Of the first 200 images of NEU (JPG copy, 64 pixels), all copies are found that were saved as JPEG of quality
60, halved, mirrored or turned by 90°, and 190 of those of quality 20. Of NEU's 720 held-out images 2 are said to have
a near-copy in an earlier pool, among 10,000 images of CIFAR-10 13. 10,000 images take 8 seconds of a processor.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 32  # pixels, as the hash takes them
_BITS = 10  # of 64 that may differ
_CORRELATION = 0.9  # of the pixels, at least
_CHUNK = 512  # images compared at a time
_TURNS = (None, *Image.Transpose)  # what a copy may be: as it was, mirrored, turned


@dataclass(frozen=True)
class NearCopy:
    """Two images that look like copies of one."""

    image: int
    other: int


class Signatures:
    """Small grey pictures of images, and their hashes."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        """Take images (N, H, W, 3); they may lie on disk."""
        self.small = [_small(image) for image in images]
        self.hashes = _hashes(self.small)

    def nearest(self, rows: NDArray[np.int64], others: NDArray[np.int64], *, turned: bool) -> list[NearCopy]:
        """For each of some images its nearest among others, where that looks like a copy of it.

        Args:
            turned: an image is also compared as it looks mirrored or turned.
        """
        if not len(rows) or not len(others):
            return []
        turns: Sequence[Image.Transpose | None] = _TURNS if turned else _TURNS[:1]
        copies = []
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            least = np.full(len(chunk), 65, np.uint8)
            place = np.zeros(len(chunk), np.int64)
            for turn in turns:
                hashes = (
                    self.hashes[chunk] if turn is None else _hashes(self.small[row].transpose(turn) for row in chunk)
                )
                bits = np.bitwise_count(hashes[:, None] ^ self.hashes[None, others])
                nearest = bits.argmin(axis=1)
                bits_there = bits[np.arange(len(chunk)), nearest]
                place = np.where(bits_there < least, others[nearest], place)
                least = np.minimum(least, bits_there)
            near = np.flatnonzero(least <= _BITS)
            pairs = [NearCopy(int(chunk[index]), int(place[index])) for index in near]
            copies += [pair for pair in pairs if self._correlation(pair, turns) >= _CORRELATION]
        return copies

    def _correlation(self, pair: NearCopy, turns: Sequence[Image.Transpose | None]) -> float:
        image, other = self.small[pair.image], np.asarray(self.small[pair.other], np.float64).ravel()
        if np.ptp(other) == 0 or image.getextrema()[0] == image.getextrema()[1]:
            return 0.0  # of a single grey: like every other such image, and no copy of it
        turned = (image if turn is None else image.transpose(turn) for turn in turns)
        return max(float(np.corrcoef(np.asarray(copy, np.float64).ravel(), other)[0, 1]) for copy in turned)


def _small(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def _hashes(pictures: Iterable[Image.Image]) -> NDArray[np.uint64]:
    import imagehash

    packed = [np.packbits(imagehash.phash(picture).hash).tobytes() for picture in pictures]
    return np.frombuffer(b"".join(packed), ">u8").astype(np.uint64)


def between_pools(signatures: Signatures, pools: NDArray[np.int8]) -> list[NearCopy]:
    """For validation and test images their nearest image of an earlier pool, where that looks like a copy."""
    return [
        pair
        for pool in range(1, 3)
        for pair in signatures.nearest(np.flatnonzero(pools == pool), np.flatnonzero(pools < pool), turned=True)
    ]


def between_labels(signatures: Signatures, labels: NDArray[np.int16]) -> list[NearCopy]:
    """For images their nearest image of a later label, where that looks like a copy, neither mirrored nor turned."""
    return [
        pair
        for label in range(int(labels.max()))
        for pair in signatures.nearest(np.flatnonzero(labels == label), np.flatnonzero(labels > label), turned=False)
    ]
