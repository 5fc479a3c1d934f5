"""A keyed pseudo-random permutation of 0…n-1 that is computed, not stored, and can be inverted.

Six Feistel rounds (Luby & Rackoff, 1988) on the smallest power of two that holds n, its bits split into two
halves that differ by at most one bit; each round changes one half by a keyed hash of the other. Results >= n
are sent through the rounds again until they fall below n (cycle walking: Black & Rogaway, 2002), which keeps
the map a permutation of 0…n-1 and takes fewer than two passes on average, because the power of two is below
2n (more for n < 32: at least 64 is used).

A *tweak* is a number that selects one permutation out of a family with the same key, so that a vector of
positions can use many permutations in one call (a repeat number; an epoch and a lane).

The permutation shuffles; it does not protect secrets. Integer arithmetic modulo 2**64 alone: the same on any
machine.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

PERMUTATION = "feistel6-cyclewalk-1"
"""Name and version of the algorithm below; manifests record it. Any change of a result needs a new name."""

IntArray = npt.NDArray[np.int64]

_ROUNDS = 6
# On 4 or 16 values the network is visibly uneven over its keys (chi-square, n = 2…5); on 64 it is not.
_MIN_BITS = 6
_CHUNK = 1 << 15  # values worked on at a time, so that intermediates stay in the processor's cache
_U = np.uint64


def key64(text: str) -> int:
    """The first 8 bytes, little-endian, of sha256(text in UTF-8): an unsigned 64-bit key."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def mix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's step (Steele, Lea & Flood, 2014): a bijection of uint64 in which every bit affects every
    bit."""
    x = x + _U(0x9E3779B97F4A7C15)
    x = (x ^ (x >> _U(30))) * _U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U(27))) * _U(0x94D049BB133111EB)
    return x ^ (x >> _U(31))


class Permutation:
    """The permutation of 0…n-1 that belongs to `key`.

    n: 1 … 2**62. key: any text; equal texts give equal permutations, other texts unrelated ones.
    """

    def __init__(self, n: int, key: str) -> None:
        if not 1 <= n <= 1 << 62:
            raise ValueError(f"a permutation needs 1 <= n <= 2**62, not {n}")
        self.n = n
        bits = max(_MIN_BITS, (n - 1).bit_length())
        self._low_bits = bits // 2
        self._high_bits = bits - self._low_bits
        self._keys = [_U(key64(f"{key}/round {r}")) for r in range(_ROUNDS)]

    def forward(self, i: npt.ArrayLike, tweak: npt.ArrayLike = 0) -> IntArray:
        """The images of i.

        i: integers in [0, n), any shape. tweak: integers >= 0, broadcast against i. Returns int64 of the
        common shape. Raises ValueError for an i outside the domain.
        """
        return self._walk(i, tweak, inverse=False)

    def inverse(self, i: npt.ArrayLike, tweak: npt.ArrayLike = 0) -> IntArray:
        """The positions that `forward` sends to i, under the same tweak. Shapes and errors as there."""
        return self._walk(i, tweak, inverse=True)

    def _walk(self, i: npt.ArrayLike, tweak: npt.ArrayLike, inverse: bool) -> IntArray:
        values = np.asarray(i, dtype=np.int64)
        tweaks = np.asarray(tweak, dtype=np.int64)
        if values.size and (values.min() < 0 or values.max() >= self.n):
            raise ValueError(f"positions must lie in [0, {self.n}), not [{values.min()}, {values.max()}]")
        shape = np.broadcast_shapes(values.shape, tweaks.shape)
        if self.n == 1:
            return np.zeros(shape, dtype=np.int64)
        flat = np.broadcast_to(values, shape).reshape(-1).astype(np.uint64)
        one_tweak = tweaks.size == 1
        mixed = mix64(
            (tweaks.reshape(-1) if one_tweak else np.broadcast_to(tweaks, shape).reshape(-1)).astype(np.uint64)
        )
        for start in range(0, flat.size, _CHUNK):
            part = flat[start : start + _CHUNK]  # a view: results are written in place
            tweak_part = mixed if one_tweak else mixed[start : start + _CHUNK]
            part[:] = self._rounds(part, tweak_part, inverse)
            outside = np.flatnonzero(part >= _U(self.n))
            while outside.size:
                again = self._rounds(part[outside], tweak_part if one_tweak else tweak_part[outside], inverse)
                part[outside] = again
                outside = outside[again >= _U(self.n)]
        return flat.astype(np.int64).reshape(shape)

    def _rounds(
        self, x: npt.NDArray[np.uint64], tweak: npt.NDArray[np.uint64], inverse: bool
    ) -> npt.NDArray[np.uint64]:
        low = x & _U((1 << self._low_bits) - 1)
        high = x >> _U(self._low_bits)
        for r in reversed(range(_ROUNDS)) if inverse else range(_ROUNDS):
            if r % 2 == 0:
                high ^= self._hash(low, tweak, r) >> _U(64 - self._high_bits)
            else:
                low ^= self._hash(high, tweak, r) >> _U(64 - self._low_bits)
        high <<= _U(self._low_bits)
        high |= low
        return high

    def _hash(self, half: npt.NDArray[np.uint64], tweak: npt.NDArray[np.uint64], r: int) -> npt.NDArray[np.uint64]:
        """64 bits of which the upper ones are good: two multiplications spread every input bit upwards."""
        x = half ^ tweak
        x += self._keys[r]
        x *= _U(0xBF58476D1CE4E5B9)
        x ^= x >> _U(32)
        x *= _U(0x94D049BB133111EB)
        return x
