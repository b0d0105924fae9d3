"""Keyed randomness: every random number is a function of its key and its position.

SplitMix64 (Steele, Lea, Flood 2014) in wrapping 64-bit integer tensor operations, so that the CPU and
the GPU make the same integers. Nothing is streamed: a cell's numbers do not depend on what ran
before it or beside it, and the epoch number is all the state that a checkpoint needs.

A key is built by `derive(seed, purpose, ...)` from integers or integer tensors; element i of a key's
sequence is `bits(key, i)`.
"""

import math
from typing import TypeVar, overload

import numpy as np
import torch
from torch import Tensor

# One number per use, so that no two uses of a seed ever share a sequence.
PURPOSES = {
    "weights": 1,
    "order": 2,
    "augment": 3,
    "dropout": 4,
    "validation": 5,
    "synthetic": 6,
    "head": 7,
    "member": 8,  # seeds of members that have their own batches
}

_GAMMA = 0x9E3779B97F4A7C15
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1

Key = int | Tensor
K = TypeVar("K", int, Tensor)


def _signed(value: int) -> int:
    """A 64-bit pattern as the int64 that torch stores it in."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift_(value: Tensor, bits: int) -> Tensor:
    """Logical right shift, in place: torch's own keeps the sign."""
    value >>= bits
    value &= (1 << (64 - bits)) - 1
    return value


def _mix(value: K) -> K:
    """SplitMix64's finaliser: a bijection of 64-bit integers. A tensor is overwritten.

    A dropout mask has a million elements: a new tensor for each of ten operations costs a CPU three times as much.
    """
    if isinstance(value, Tensor):
        scratch = torch.empty_like(value)
        for shift, factor in ((30, _MIX1), (27, _MIX2)):
            value ^= _shift_(scratch.copy_(value), shift)
            value *= _signed(factor)
        value ^= _shift_(scratch.copy_(value), 31)
        return value
    value &= _MASK
    value = ((value ^ (value >> 30)) * _MIX1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX2) & _MASK
    return value ^ (value >> 31)


@overload
def absorb(key: int, word: int) -> int: ...
@overload
def absorb(key: Tensor, word: Key) -> Tensor: ...
@overload
def absorb(key: Key, word: Tensor) -> Tensor: ...
def absorb(key: Key, word: Key) -> Key:
    """The key that belongs to `word` under `key`; integers and int64 tensors give the same bits."""
    if isinstance(key, Tensor) or isinstance(word, Tensor):
        key = key if isinstance(key, Tensor) else _signed(key)
        step = word * _signed(_GAMMA) if isinstance(word, Tensor) else _signed(word * _GAMMA)
        return _mix(_mix(torch.as_tensor(key + step)) ^ _signed(_MIX1))
    return _mix(_mix(key + word * _GAMMA) ^ _MIX1)


@overload
def derive(seed: int, purpose: str, *words: int) -> int: ...
@overload
def derive(seed: Tensor, purpose: str, *words: Key) -> Tensor: ...
def derive(seed: Key, purpose: str, *words: Key) -> Key:
    """Key of a purpose (see `PURPOSES`) and any further words: epoch, step, sample, member, layer."""
    key = absorb(absorb(0, seed), PURPOSES[purpose])
    for word in words:
        key = absorb(key, word)
    return key


def bits(key: Key, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """64 random bits per element.

    Args:
        key: an integer, or an int64 tensor of shape (K, ...) with one key per leading element.
        shape: shape of one key's sequence.

    Returns:
        int64 tensor of shape `shape`, or key.shape + shape for a tensor of keys.
    """
    counter = _count(math.prod(shape), torch.device(device)).view(shape).mul_(_signed(_GAMMA))
    if isinstance(key, Tensor):
        key = key.to(device).view(key.shape + (1,) * len(shape))
        return _mix(key + counter)
    return _mix(counter.add_(_signed(key)))


def _count(n: int, device: torch.device) -> Tensor:
    """1, 2, …, n (int64). On a CPU torch takes ten times as long as numpy to count."""
    if device.type == "cpu":
        return torch.from_numpy(np.arange(1, n + 1, dtype=np.int64))
    return torch.arange(1, n + 1, device=device)


def uniform(
    key: Key, shape: tuple[int, ...], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform numbers in [0, 1); shapes as in `bits`. 24 bits each in float32, 53 in float64."""
    precision = 53 if dtype == torch.float64 else 24
    return _shift_(bits(key, shape, device), 64 - precision).to(dtype).mul_(2.0**-precision)


def kept(key: Key, x: Tensor, p: float) -> Tensor:
    """What a dropout of probability p keeps of `x`: `uniform(key, x.shape) >= p`, as 0 and 1 of its type.

    With an integer key on a CPU it is made in the order in which channels-last memory is read and in blocks that
    stay in the cache, by fewer operations: numpy shifts logically, and the comparison is one of integers.
    """
    if isinstance(key, Tensor) or x.device.type != "cpu" or x.dim() < 2 or not x.numel():
        return (uniform(key, tuple(x.shape), x.device) >= p).to(x.dtype)
    images, channels = x.shape[:2]
    cells = math.prod(x.shape[2:])
    # The counter of `bits` is a sum of one part per image and cell and one per channel.
    image, cell = np.ogrid[:images, :cells]
    rows = ((image * (channels * cells) + cell + 1).astype(np.uint64) * np.uint64(_GAMMA)).ravel()
    rows += np.uint64(key & _MASK)
    columns = np.arange(channels, dtype=np.uint64) * np.uint64(cells * _GAMMA & _MASK)
    at_least = np.uint64(math.ceil(float(np.float32(p)) * 2**24) << 40)  # as `uniform` compares: 24 bits, float32
    keep = np.empty((len(rows), channels), np.bool_)
    block = max(1, 32_768 // channels)
    numbers = np.empty((block, channels), np.uint64)
    scratch = np.empty_like(numbers)
    for start in range(0, len(rows), block):
        part = rows[start : start + block, None]
        z, shifted = numbers[: len(part)], scratch[: len(part)]
        np.add(part, columns, out=z)
        for shift, factor in ((30, _MIX1), (27, _MIX2)):
            z ^= np.right_shift(z, np.uint64(shift), out=shifted)
            z *= np.uint64(factor)
        # The last step of SplitMix64 changes the lower 33 bits, of which the comparison uses none.
        np.greater_equal(z, at_least, out=keep[start : start + block])
    factors = torch.from_numpy(keep.view(np.uint8)).to(x.dtype)  # from booleans it takes torch seven times as long
    return factors.view(images, *x.shape[2:], channels).movedim(-1, 1)


def normal(
    key: Key, shape: tuple[int, ...], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal numbers by the inverse distribution function; shapes as in `bits`."""
    # Half a step away from 0 and 1, where the inverse is infinite.
    u = uniform(key, shape, device, torch.float64) + 2.0**-54
    z: Tensor = torch.special.ndtri(u)
    return z.to(dtype)


def permutation(key: Key, n: int) -> Tensor:
    """A random order of 0..n-1 (int64, CPU)."""
    return torch.argsort(bits(key, (n,)))  # no two are equal: SplitMix64 is a bijection
