"""The authors' augmentation (docs/reference.md 4.4) on whole batches of uint8 images, on the CPU or a GPU.

Half of the images stay as they are; each of four sequences takes an eighth of them:

| branch | operations, in this order |
|---|---|
| 0 | CLAHE, clip limit U(1, 10), 8 × 8 tiles; rotation U(-5, 5)° |
| 1 | shift by U(-0.2, 0.2) of the size in x and in y; light |
| 2 | rotation U(-10, 10)°; light |
| 3 | perspective, σ ~ U(0, 0.15); light |
| light | multiply by U(0.7, 1.3); Laplace noise of scale 7.65 per pixel and channel; mirror and upside down, p 0.3 each |

The authors ran imgaug 0.2.9, which hands the images to OpenCV one by one and rounds to uint8 after every
operation. The same arithmetic is written here in integers: each function below names its source and says
how close it comes. An image depends on itself and its key alone.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fdl.training.randomness import absorb, bits, normal, uniform

# One word per use of an image's key, so that no two uses share a sequence.
_BRANCH, _CLIP, _ANGLE, _SHIFT, _SIGMA, _CORNERS, _FACTOR, _NOISE, _FLIPS = range(9)

NOISE_SCALE = 0.03 * 255
FLIP_PROBABILITY = 0.3
TILES = 8

# Pixels handled at once: what one core's cache holds, and what fits beside a training run on a GPU.
_PIXELS_AT_ONCE = {"cpu": 2**16, "cuda": 2**23}


def augment(images: Tensor, keys: Tensor) -> Tensor:
    """Augmented copies of the images; each is a function of the image and its key.

    Args:
        images: uint8 (B, 3, H, W).
        keys: int64 (B,), one key per image, from `fdl.training.randomness.derive`.

    Returns:
        uint8 (B, 3, H, W), on the device of the images.
    """
    result = images.clone()
    keys = keys.to(images.device)
    eighth = (bits(_subkey(keys, _BRANCH), (), images.device) >> 61) & 7
    height, width = images.shape[-2:]
    at_once = max(1, _PIXELS_AT_ONCE[images.device.type] // (height * width))
    for number, branch in enumerate(_BRANCHES):
        for chosen in torch.nonzero(eighth == number).flatten().split(at_once):
            if len(chosen):
                result[chosen] = branch(images[chosen], keys[chosen])
    return result


def _equalise_rotate(images: Tensor, keys: Tensor) -> Tensor:
    return rotate(clahe(images, _between(1, 10, keys, _CLIP)), _between(-5, 5, keys, _ANGLE))


def _shift_light(images: Tensor, keys: Tensor) -> Tensor:
    return _light(shift(images, _between(-0.2, 0.2, keys, _SHIFT, 2)), keys)


def _rotate_light(images: Tensor, keys: Tensor) -> Tensor:
    return _light(rotate(images, _between(-10, 10, keys, _ANGLE)), keys)


def _perspective_light(images: Tensor, keys: Tensor) -> Tensor:
    # imgaug 0.2.9 parameters.py Normal: one σ per image for its eight numbers.
    sigma = _between(0, 0.15, keys, _SIGMA)
    jitter = normal(_subkey(keys, _CORNERS), (4, 2), images.device, torch.float64) * sigma.view(-1, 1, 1)
    return _light(perspective(images, jitter), keys)


_BRANCHES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _equalise_rotate,
    _shift_light,
    _rotate_light,
    _perspective_light,
)


def _light(images: Tensor, keys: Tensor) -> Tensor:
    images = multiply(images, _between(0.7, 1.3, keys, _FACTOR))
    images = add(images, laplace(_subkey(keys, _NOISE), tuple(images.shape[1:]), images.device))
    mirror, upside_down = (_between(0, 1, keys, _FLIPS, 2) < FLIP_PROBABILITY).view(-1, 2, 1, 1, 1).unbind(1)
    images = torch.where(mirror, images.flip(-1), images)
    return torch.where(upside_down, images.flip(-2), images)


def _subkey(keys: Tensor, word: int) -> Tensor:
    key = absorb(keys, word)
    assert isinstance(key, Tensor)
    return key


def _between(low: float, high: float, keys: Tensor, word: int, *shape: int) -> Tensor:
    """Uniform float64 numbers in [low, high), `shape` of them per key."""
    return low + (high - low) * uniform(_subkey(keys, word), shape, keys.device, torch.float64)


def multiply(images: Tensor, factor: Tensor) -> Tensor:
    """Each image times its factor (B,): a float32 product, cut off (imgaug 0.2.9 arithmetic.py Multiply)."""
    product = images.to(torch.float32) * factor.to(torch.float32).view(-1, 1, 1, 1)
    return product.clamp_(0, 255).to(torch.uint8)


def add(images: Tensor, noise: Tensor) -> Tensor:
    """Images plus noise of the same shape, rounded half to even first (imgaug 0.2.9 AddElementwise)."""
    steps = noise.round().clamp_(-255, 255).to(torch.int16)
    return steps.add_(images).clamp_(0, 255).to(torch.uint8)


def laplace(keys: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Laplace noise of scale `NOISE_SCALE`, float32 (B, *shape); per channel, as the authors set it."""
    # Two numbers of 32 bits from one: a sign and the 31 bits of an exponential.
    count = math.prod(shape)
    halves = bits(keys, ((count + 1) // 2,), device).view(torch.int32)[:, :count]
    exponential = ((halves & 0x7FFFFFFF).to(torch.float32) + 0.5).mul_(2.0**-31).log_().mul_(-NOISE_SCALE)
    return torch.where(halves < 0, -exponential, exponential).view(-1, *shape)


def shift(images: Tensor, fraction: Tensor) -> Tensor:
    """Images moved by whole pixels, right and down; black where nothing came from.

    Args:
        fraction: (B, 2), x and y, in widths and heights; rounded half to even to whole pixels
            (imgaug 0.2.9 geometric.py Affine).
    """
    height, width = images.shape[-2:]
    size = torch.tensor([width, height], device=images.device)
    columns, rows = _pixel_grid(height, width, images.device)
    pixels = (fraction * size).round().to(torch.int64).view(-1, 2, 1, 1)
    x, y = torch.broadcast_tensors((columns - pixels[:, 0]) * 32, (rows - pixels[:, 1]) * 32)
    return _sample(images, x, y)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Images turned clockwise about their centre by `degrees` (B,); black outside.

    imgaug 0.2.9 geometric.py Affine: centre (W/2 - 0.5, H/2 - 0.5), cv2.warpAffine, bilinear. As
    OpenCV 4 does it: source coordinates in steps of 1/1024, then 1/32 pixel. Equal bit for bit to
    OpenCV 4.8.1 in BITEQUAL_ROTATE images.
    """
    height, width = images.shape[-2:]
    columns, rows = _pixel_grid(height, width, images.device)
    centre_x, centre_y = width / 2 - 0.5, height / 2 - 0.5
    radians = torch.deg2rad(degrees).view(-1, 1, 1)
    cos, sin = torch.cos(radians), torch.sin(radians)
    start_x = sin * rows + (centre_x - cos * centre_x - sin * centre_y)
    start_y = cos * rows + (centre_y + sin * centre_x - cos * centre_y)
    x = (_round_int(cos * columns * 1024) + _round_int(start_x * 1024) + 16) >> 5
    y = (_round_int(-sin * columns * 1024) + _round_int(start_y * 1024) + 16) >> 5
    return _sample(images, x, y)


def perspective(images: Tensor, jitter: Tensor) -> Tensor:
    """Images seen from askew: a quadrilateral inside each is straightened and enlarged to the full size.

    imgaug 0.2.9 geometric.py PerspectiveTransform, keep_size: the corners move inwards by |jitter|
    of the size; cv2.warpPerspective (bilinear) to a frame of the quadrilateral's own size; cv2.resize
    (cubic) to H × W.

    Args:
        jitter: float64 (B, 4, 2), the corners' moves in x and y, in widths and heights, of any sign.
    """
    height, width = images.shape[-2:]
    corners, frame = _quadrilateral(jitter, height, width)
    rows, columns = (int(size) for size in frame.amax(0).tolist()[::-1])
    inner = _sample(images, *_straighten(corners, frame, rows, columns))
    across = _resize_cubic(inner.to(torch.int32), frame[:, 0], width)
    down = _resize_cubic(across.transpose(-1, -2), frame[:, 1], height).transpose(-1, -2)
    return ((down + (1 << 21)) >> 22).clamp_(0, 255).to(torch.uint8)


def _quadrilateral(jitter: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Corners (B, 4, 2) from top left clockwise, in imgaug's float32, and the frame's width and height (B, 2)."""
    inwards = jitter.abs().remainder(1)
    far = torch.tensor([[0, 1], [1, 1], [1, 0], [0, 0]], dtype=torch.bool, device=jitter.device)
    size = torch.tensor([width, height], device=jitter.device)
    points = torch.where(far, 1 - inwards, inwards) * size
    # imgaug names the corners anew, so that strong jitter can make one point two corners.
    total, difference = points.sum(-1), points[..., 1] - points[..., 0]
    order = torch.stack([total.argmin(1), difference.argmin(1), total.argmax(1), difference.argmax(1)], 1)
    corners = points.gather(1, order[..., None].expand(-1, -1, 2)).to(torch.float32)
    frame = []
    for axis, starts, ends in ((0, (0, 3), (1, 2)), (1, (0, 1), (3, 2))):
        apart = torch.zeros(4, 2, device=jitter.device)
        apart[starts, axis], apart[ends, axis] = -0.5, 0.5
        lengths = _lengths(corners, starts, ends)
        while bool((lengths < 2).any()):
            narrow = (lengths < 2).any(1).view(-1, 1, 1)
            corners = torch.where(narrow, corners + apart, corners)
            lengths = _lengths(corners, starts, ends)
        frame.append(lengths.amax(1))
    return corners, torch.stack(frame, 1)


def _lengths(corners: Tensor, starts: tuple[int, int], ends: tuple[int, int]) -> Tensor:
    """Lengths of two opposite sides in whole pixels, int64 (B, 2)."""
    return (corners[:, ends] - corners[:, starts]).square().sum(-1).sqrt().to(torch.int64)


def _straighten(corners: Tensor, frame: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Where each pixel of the frame lies in the image: x, y in 1/32 pixel, int64 (B, rows, columns).

    The homography of the unit square onto four corners in closed form (Heckbert 1989, Fundamentals of
    texture mapping and image warping, 2.2.3): never singular where a solver would raise an error.
    """
    p0, p1, p2, p3 = corners.to(torch.float64).unbind(1)
    a, b, c = p1 - p2, p3 - p2, p0 - p1 + p2 - p3
    area = _cross(a, b)
    g, h = _cross(c, b) / area, _cross(a, c) / area
    along_x, along_y = p1 - p0 + g * p1, p3 - p0 + h * p3
    x, y = _pixel_grid(rows, columns, corners.device)
    u, v = ((x, y)[axis] / (frame[:, axis] - 1).view(-1, 1, 1) for axis in (0, 1))
    depth = _image(g) * u + _image(h) * v + 1
    scale = torch.where(depth == 0, 0, 32 / depth)
    return tuple(
        _round((_image(along_x[:, i]) * u + _image(along_y[:, i]) * v + _image(p0[:, i])) * scale) for i in (0, 1)
    )
