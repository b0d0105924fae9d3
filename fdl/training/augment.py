"""The authors' augmentation (docs/reference.md 4.4) on whole batches of uint8 images, on the CPU or a GPU.

Half of the images stay as they are; each of four sequences takes an eighth of them:

| branch | operations, in this order |
|---|---|
| 0 | CLAHE, clip limit U(1, 10), 8 × 8 tiles; rotation U(-5, 5)° |
| 1 | shift by U(-0.2, 0.2) of the size in x and in y; light |
| 2 | rotation U(-10, 10)°; light |
| 3 | perspective, σ ~ U(0, 0.15); light |
| light | multiply by U(0.7, 1.3); Laplace noise, scale 7.65 per pixel and channel; mirror, upside down, p 0.3 each |

The authors ran imgaug 0.2.9, which hands the images to OpenCV one by one and goes back to uint8 after every
operation. The same arithmetic is written here for batches, in integers where OpenCV 4 uses them, so that the
CPU and the GPU agree. Measured against OpenCV 4.8.1: CLAHE, shift and rotation equal; perspective off by one
grey level in 4 % of the pixels. OpenCV 5 warps with finer coordinates: up to 8 levels off on pure noise.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from fdl.core.randomness import absorb, bits, normal, uniform

# Each random quantity of an image is drawn from its key with a word of its own, so that no two are correlated.
_BRANCH, _CLIP, _ANGLE, _SHIFT, _SIGMA, _CORNERS, _FACTOR, _NOISE, _FLIPS = range(9)

NOISE_SCALE = 0.03 * 255
FLIP_PROBABILITY = 0.3
TILES = 8
# Pixels processed at once: as many as fit into the cache of one core, or beside a training run on a GPU.
_PIXELS_ON_CPU, _PIXELS_ON_GPU = 2**16, 2**23


def augment(images: Tensor, keys: Tensor) -> Tensor:
    """Augmented copies of the images; each depends only on the image and its key.

    Args:
        images: uint8 (B, 3, H, W).
        keys: int64 (B,), one key per image, from `fdl.core.randomness.derive`.

    Returns:
        uint8 (B, 3, H, W), on the device of the images.
    """
    result = images.clone()
    keys = keys.to(images.device)
    eighth = (bits(absorb(keys, _BRANCH), (), images.device) >> 61) & 7
    pixels = _PIXELS_ON_CPU if images.device.type == "cpu" else _PIXELS_ON_GPU
    at_once = max(1, pixels // math.prod(images.shape[-2:]))
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
    # imgaug 0.2.9 parameters.py Normal draws one σ per image, shared by its eight corner coordinates.
    sigma = _between(0, 0.15, keys, _SIGMA)
    jitter = normal(absorb(keys, _CORNERS), (4, 2), images.device, torch.float64) * sigma.view(-1, 1, 1)
    return _light(perspective(images, jitter), keys)


_BRANCHES = (_equalise_rotate, _shift_light, _rotate_light, _perspective_light)


def _light(images: Tensor, keys: Tensor) -> Tensor:
    images = multiply(images, _between(0.7, 1.3, keys, _FACTOR))
    images = add(images, laplace(absorb(keys, _NOISE), tuple(images.shape[1:]), images.device))
    mirror, upside_down = (_between(0, 1, keys, _FLIPS, 2) < FLIP_PROBABILITY).view(-1, 2, 1, 1, 1).unbind(1)
    images = torch.where(mirror, images.flip(-1), images)
    return torch.where(upside_down, images.flip(-2), images)


def _between(low: float, high: float, keys: Tensor, word: int, *shape: int) -> Tensor:
    """Uniform float64 numbers in [low, high), `shape` of them per key."""
    return low + (high - low) * uniform(absorb(keys, word), shape, keys.device, torch.float64)


def multiply(images: Tensor, factor: Tensor) -> Tensor:
    """Each image times its factor (B,): a truncated float32 product (imgaug 0.2.9 arithmetic.py Multiply)."""
    product = images.to(torch.float32) * factor.to(torch.float32).view(-1, 1, 1, 1)
    return product.clamp_(0, 255).to(torch.uint8)


def add(images: Tensor, noise: Tensor) -> Tensor:
    """Images plus noise of the same shape; the noise is rounded half to even first (imgaug 0.2.9 AddElementwise)."""
    steps = noise.round().clamp_(-255, 255).to(torch.int16)
    return steps.add_(images).clamp_(0, 255).to(torch.uint8)


def laplace(keys: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Laplace noise of scale `NOISE_SCALE`, float32 (B, *shape), independent in every channel as the authors set it."""
    count = math.prod(shape)
    # A 64-bit number gives two of 32 bits, each a sign and 31 bits for an exponentially distributed number.
    halves = bits(keys, ((count + 1) // 2,), device).view(torch.int32)[:, :count]
    exponential = ((halves & 0x7FFFFFFF).to(torch.float32) + 0.5).mul_(2.0**-31).log_().mul_(-NOISE_SCALE)
    return torch.where(halves < 0, -exponential, exponential).view(-1, *shape)


def clahe(images: Tensor, clip_limit: Tensor) -> Tensor:
    """Contrast-limited adaptive histogram equalisation of every channel in 8 × 8 tiles.

    Equal to `cv2.createCLAHE(clip_limit, (8, 8)).apply`, except for one grey level where a sum is rounded from a half.

    Args:
        images: uint8 (B, C, H, W).
        clip_limit: float64 (B,), in multiples of a flat histogram's height.
    """
    batch, channels, height, width = images.shape
    # OpenCV pads both sides as soon as one of them is not a multiple of the number of tiles.
    ragged = int(height % TILES > 0 or width % TILES > 0)
    tile_height, tile_width = height // TILES + ragged, width // TILES + ragged
    columns, rows = _pixel_grid(tile_height * TILES, tile_width * TILES, images.device)
    grey = images.to(torch.int64).view(batch * channels, height, width)
    # Fill the last tiles by reflection about the last row and column (OpenCV's BORDER_REFLECT_101).
    mirrored = grey[:, height - 1 - (rows - height + 1).abs(), width - 1 - (columns - width + 1).abs()]
    bins = (rows // tile_height * TILES + columns // tile_width) * 256 + mirrored
    counts = torch.zeros(len(grey), TILES**2 * 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(1, bins.flatten(1), torch.ones_like(bins, dtype=torch.int32).flatten(1))

    area = tile_height * tile_width
    limit = (clip_limit * area / 256).to(torch.int32).clamp(min=1)
    counts = _clip(counts.view(-1, TILES**2, 256), limit.repeat_interleave(channels).view(-1, 1, 1))
    levels = counts.cumsum(-1, dtype=torch.int32).to(torch.float32).mul_(255 / area).round_().flatten(1)

    # Each pixel interpolates between the levels of the four tiles whose centres surround it.
    columns, rows = columns[:width], rows[:height]
    left, right, from_left = _tile_neighbours(columns, tile_width)
    above, below, from_above = _tile_neighbours(rows, tile_height)

    def equalised(tile_row: Tensor, tile_column: Tensor) -> Tensor:
        index = (tile_row * TILES + tile_column) * 256 + grey
        return levels.gather(1, index.flatten(1)).view_as(grey)

    upper = equalised(above, left) * (1 - from_left) + equalised(above, right) * from_left
    lower = equalised(below, left) * (1 - from_left) + equalised(below, right) * from_left
    mixed = upper * (1 - from_above) + lower * from_above
    return mixed.round().clamp_(0, 255).to(torch.uint8).view_as(images)


def _clip(counts: Tensor, limit: Tensor) -> Tensor:
    """Histograms int32 (N, tiles, 256) clipped at the limit; the excess is spread evenly over all bins."""
    excess = (counts - limit).clamp_(min=0).sum(-1, dtype=torch.int32)
    # Row r marks the bins that get one more if r counts are left over.
    grey = torch.arange(256, dtype=torch.int32, device=counts.device)
    step = 256 // grey.clamp(min=1)[:, None]
    one_more = ((grey % step == 0) & (grey // step < grey[:, None])).to(torch.int32)
    return counts.minimum(limit).add_((excess // 256)[..., None]).add_(one_more[excess % 256])


def _tile_neighbours(pixels: Tensor, tile_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The tiles whose centres lie before and after each pixel of a line, and its position between them, in [0, 1]."""
    position = pixels.to(torch.float32) * (1 / tile_size) - 0.5
    before = position.floor()
    first, second = before.clamp(min=0), (before + 1).clamp(max=TILES - 1)
    return first.to(torch.int64), second.to(torch.int64), position - before


def shift(images: Tensor, fraction: Tensor) -> Tensor:
    """Images moved right and down by `fraction` (B, 2) of width and height, in whole pixels; black elsewhere.

    imgaug 0.2.9 geometric.py Affine rounds half to even.
    """
    height, width = images.shape[-2:]
    size = torch.tensor([width, height], device=images.device)
    columns, rows = _pixel_grid(height, width, images.device)
    pixels = (fraction * size).round().to(torch.int64).view(-1, 2, 1, 1)
    x, y = torch.broadcast_tensors((columns - pixels[:, 0]) * 32, (rows - pixels[:, 1]) * 32)
    return _sample(images, x, y)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Images turned clockwise about their centre by `degrees` (B,); black outside.

    imgaug 0.2.9 geometric.py Affine: centre (W/2 - 0.5, H/2 - 0.5), cv2.warpAffine, bilinear. As in
    OpenCV 4, source coordinates are rounded to 1/1024 pixel and then to 1/32.
    """
    height, width = images.shape[-2:]
    columns, rows = _pixel_grid(height, width, images.device)
    centre_x, centre_y = width / 2 - 0.5, height / 2 - 0.5
    radians = torch.deg2rad(degrees).view(-1, 1, 1)
    cos, sin = torch.cos(radians), torch.sin(radians)
    start_x = sin * rows + (centre_x - cos * centre_x - sin * centre_y)
    start_y = cos * rows + (centre_y + sin * centre_x - cos * centre_y)
    x = (_round(cos * columns * 1024) + _round(start_x * 1024) + 16) >> 5
    y = (_round(-sin * columns * 1024) + _round(start_y * 1024) + 16) >> 5
    return _sample(images, x, y)


def perspective(images: Tensor, jitter: Tensor) -> Tensor:
    """A random perspective: a quadrilateral inside each image is warped to a rectangle and enlarged to the full size.

    imgaug 0.2.9 geometric.py PerspectiveTransform, keep_size: the corners move inwards by |jitter|
    of the size; cv2.warpPerspective (bilinear) to a frame of the quadrilateral's own size; cv2.resize
    (cubic) to H × W. imgaug also separates corners that crossed; this is left out, because it concerns
    six images in 100,000.

    Args:
        jitter: float64 (B, 4, 2), clockwise from top left, in widths and heights, of any sign.
    """
    height, width = images.shape[-2:]
    square = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], device=images.device)
    size = torch.tensor([width, height], device=images.device)
    corners = ((square - jitter.abs().remainder(1)).abs() * size).to(torch.float32)
    sides = (corners - corners.roll(-1, 1)).square().sum(-1).sqrt().to(torch.int64)  # top, right, bottom, left
    frame = sides.view(-1, 2, 2).amax(1).clamp(min=2)
    inner = _sample(images, *_straighten(corners.to(torch.float64), frame))
    across = _resize_cubic(inner.to(torch.int32), frame[:, 0], width)
    down = _resize_cubic(across.transpose(-1, -2), frame[:, 1], height).transpose(-1, -2)
    return ((down + (1 << 21)) >> 22).clamp_(0, 255).to(torch.uint8)


def _straighten(corners: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Source coordinates of each pixel of a rectangular frame: x, y in 1/32 pixel, as `_sample` takes them.

    The homography of the unit square onto four corners in closed form (Heckbert 1989, Fundamentals of
    texture mapping and image warping, 2.2.3), because a linear solver would raise an error for singular ones.

    Args:
        corners: float64 (B, 4, 2), x and y of the quadrilateral's corners in pixels.
        frame: int64 (B, 2), width and height of each frame in pixels.
    """
    p0, p1, p2, p3 = corners.view(-1, 4, 2, 1, 1).unbind(1)
    a, b, c = p1 - p2, p3 - p2, p0 - p1 + p2 - p3
    area = _cross(a, b)
    g, h = _cross(c, b) / area, _cross(a, c) / area
    # All frames are as large as the largest of the batch; nothing reads the pixels beyond a frame's own size.
    columns, rows = _pixel_grid(int(frame[:, 1].max()), int(frame[:, 0].max()), corners.device)
    last = (frame - 1).to(torch.float64).view(-1, 2, 1, 1)
    u, v = columns / last[:, :1], rows / last[:, 1:]
    place = ((p1 - p0 + g * p1) * u + (p3 - p0 + h * p3) * v + p0) / (g * u + h * v + 1)
    return _round(place[:, 0] * 32), _round(place[:, 1] * 32)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[:, :1] * b[:, 1:] - a[:, 1:] * b[:, :1]


def _pixel_grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Column numbers (W,) and row numbers (H, 1)."""
    return torch.arange(width, device=device), torch.arange(height, device=device)[:, None]


def _round(values: Tensor) -> Tensor:
    """To the nearest integer, half to even; clamped to OpenCV's int32, as a perspective may send points to infinity."""
    return values.nan_to_num().round().clamp(-(2**31), 2**31 - 1).to(torch.int64)


def _sample(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear interpolation at x, y (int64 (B, h, w), in 1/32 pixel); black outside. Returns uint8 (B, 3, h, w)."""
    height, width = images.shape[-2:]
    # The three channels are packed into one int64, 20 bits each: 8 bits times weights that add up to 2^10 fit.
    red, green, blue = images.to(torch.int64).unbind(1)
    packed = functional.pad(red | green << 20 | blue << 40, (2, 2, 2, 2)).flatten(1)
    stride = width + 4
    corner = ((y >> 5).clamp(-2, height) + 2) * stride + (x >> 5).clamp(-2, width) + 2

    def tap(offset: int) -> Tensor:
        return packed.gather(1, (corner + offset).flatten(1)).view_as(corner)

    across, down = x & 31, y & 31
    upper = tap(0) * (32 - across) + tap(1) * across
    lower = tap(stride) * (32 - across) + tap(stride + 1) * across
    total = upper * (32 - down) + lower * down
    return torch.stack([((total >> bit & 0xFFFFF) + 512 >> 10).to(torch.uint8) for bit in (0, 20, 40)], 1)


def _resize_cubic(lines: Tensor, lengths: Tensor, target: int) -> Tensor:
    """The first `lengths` (B,) samples of int32 lines (B, 3, R, L), resized to `target` samples and scaled by 2^11.

    The interpolation is that of cv2.INTER_CUBIC.
    """
    scale = lengths.to(torch.float64)[:, None] / target
    position = (torch.arange(target, device=lines.device) + 0.5) * scale - 0.5
    start = position.floor()
    resized = torch.zeros((*lines.shape[:-1], target), dtype=torch.int32, device=lines.device)
    for tap in range(-1, 3):
        weight = (_cubic((position - start - tap).abs()) * 2048).round().to(torch.int32)
        source = (start + tap).to(torch.int64).clamp(min=0).minimum(lengths[:, None] - 1)
        resized += lines.gather(-1, source[:, None, None].expand_as(resized)) * weight[:, None, None]
    return resized


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel at distances in [0, 2], a = -0.75."""
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, far)
