"""Alterations of valid inputs: what disks, networks and people do to files, and what an attacker would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hypothesis import strategies as st

SPECIAL: Final = (
    b"\0",
    b"\n",
    b"\r\n",
    b"\xef\xbb\xbf",  # byte order mark
    b"\xff",
    b"\xed\xa0\x80",  # half of a surrogate pair
    b'"',
    b"\\",
    b"\\ud800",
    b"[" * 600,
    b"{}\n",
    bytes(512),
    bytes(1024),
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
    b"\x50\x2a\x4d\x18\x04\0\0\0skip",  # a skippable zstd frame
    b"PAR1",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x80\0\0\0\0\0\0\0",
    b"77777777777\0",  # the largest size in a tar header
)
Edit = Callable[[bytes], bytes]
_PLACE: Final = st.integers(0, (1 << 16) - 1)


def _at(data: bytes, place: int) -> int:
    return place * (len(data) + 1) >> 16


def _between(data: bytes, a: int, b: int) -> tuple[int, int]:
    first, second = sorted((_at(data, a), _at(data, b)))
    return first, second


def _flip(place: int, bit: int) -> Edit:
    def edit(data: bytes) -> bytes:
        at = min(_at(data, place), len(data) - 1)
        return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] if data else data

    return edit


def _insert(place: int, what: bytes) -> Edit:
    return lambda data: data[: _at(data, place)] + what + data[_at(data, place) :]


def _overwrite(place: int, what: bytes) -> Edit:
    return lambda data: data[: _at(data, place)] + what + data[_at(data, place) + len(what) :]


def _remove(a: int, b: int) -> Edit:
    def edit(data: bytes) -> bytes:
        first, second = _between(data, a, b)
        return data[:first] + data[second:]

    return edit


def _copy(a: int, b: int, to: int) -> Edit:
    def edit(data: bytes) -> bytes:
        first, second = _between(data, a, b)
        return data[: _at(data, to)] + data[first:second] + data[_at(data, to) :]

    return edit


def _truncate(place: int) -> Edit:
    return lambda data: data[: _at(data, place)]


def _splice(place: int, other: bytes, from_: int) -> Edit:
    return lambda data: data[: _at(data, place)] + other[_at(other, from_) :]


def _block(a: int, to: int, size: int) -> Edit:
    """A block of `size` bytes from one multiple of it over another."""

    def edit(data: bytes) -> bytes:
        first, second = _at(data, a) // size * size, _at(data, to) // size * size
        return data[:second] + data[first : first + size] + data[second + size :]

    return edit


def edits(seeds: Sequence[bytes]) -> st.SearchStrategy[Edit]:
    """One alteration; `seeds` are what others are spliced with."""
    what = st.one_of(st.sampled_from(SPECIAL), st.binary(min_size=1, max_size=8))
    return st.one_of(
        st.builds(_flip, _PLACE, st.integers(0, 7)),
        st.builds(_overwrite, _PLACE, what),
        st.builds(_insert, _PLACE, what),
        st.builds(_remove, _PLACE, _PLACE),
        st.builds(_copy, _PLACE, _PLACE, _PLACE),
        st.builds(_block, _PLACE, _PLACE, st.just(512)),
        st.builds(_truncate, _PLACE),
        st.builds(_splice, _PLACE, st.sampled_from(seeds), st.one_of(st.just(0), _PLACE)),
        st.builds(_splice, st.just((1 << 16) - 1), st.sampled_from(seeds), st.just(0)),  # joined end to end
    )


def altered(seeds: Sequence[bytes], most: int = 4) -> st.SearchStrategy[bytes]:
    """One of `seeds` after up to `most` alterations."""

    def apply(data: bytes, changes: list[Edit]) -> bytes:
        for change in changes:
            data = change(data)
        return data[: 1 << 18]

    return st.builds(apply, st.sampled_from(seeds), st.lists(edits(seeds), max_size=most))
