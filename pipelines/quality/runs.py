"""Runs of encoded data: base64, hexadecimal bytes, \\u escapes.

A base64 run is 64 or more of A-Z a-z 0-9 + / = and newline. A run of bytes is 8 or more consecutive tokens
that are two hexadecimal digits, bare or after 0x or \\x; a run of escapes is 8 or more consecutive \\uXXXX;
nothing but commas, white space and backslashes may stand between. Such a run reaches from its first token to
the end of its last. (StarCoder2, arXiv 2402.19173, section 2.1, with regular expressions.)
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.text_table import TextTable

_BASE64: Final = np.array(
    [int(chr(i).isascii() and (chr(i).isalnum() or chr(i) in "+/=\n")) for i in range(256)], dtype=np.uint8
).tobytes()
_HEX: Final = np.array([chr(i) in "0123456789abcdefABCDEF" for i in range(256)], dtype=np.bool_)
_BETWEEN: Final = bytes(chr(i) not in ", \t\v\f\r\n\\" for i in range(256))
_ALL_EIGHT: Final = np.uint64(0x0101010101010101)
_LEAST_BASE64: Final = 64
_LEAST_TOKENS: Final = 8

Spans = tuple[NDArray[np.int64], NDArray[np.int64]]


def encoded_runs(table: TextTable) -> tuple[Spans, Spans, Spans]:
    """The runs of base64, of hexadecimal bytes and of escapes."""
    return base64_runs(table), hexadecimal_runs(table), escape_runs(table)


def base64_runs(table: TextTable) -> Spans:
    """Starts and ends (bytes) of the base64 runs of all documents, in order."""
    size = len(table.classes)
    marks = np.frombuffer(bytearray(table.data.tobytes().translate(_BASE64)), dtype=np.uint8)
    marks[table.document_offsets[1:] - 1] = 0  # the newline that ends a document is not part of it
    # 64 marked bytes hold at least 7 aligned words of 8 marked bytes.
    full = np.flatnonzero(marks[: size & ~7].view("<u8") == _ALL_EIGHT)
    if not full.size:
        return full, full
    breaks = np.flatnonzero(np.diff(full) != 1)
    first = full[np.concatenate([[0], breaks + 1])]
    last = full[np.concatenate([breaks, [len(full) - 1]])]
    long = last - first >= _LEAST_BASE64 // 8 - 2
    starts, ends = first[long] * 8, last[long] * 8 + 8
    for _ in range(7):  # the words beside a run are not full
        starts -= (starts > 0) & (marks[starts - 1] == 1)
        ends += (ends < size) & (marks[np.minimum(ends, size - 1)] == 1)
    keep = ends - starts >= _LEAST_BASE64
    return starts[keep], ends[keep]


def hexadecimal_runs(table: TextTable) -> Spans:
    """Starts and ends (bytes) of the runs of hexadecimal bytes."""
    data, starts, sizes = table.data, table.token_starts, table.token_bytes
    is_byte = np.zeros(len(starts), dtype=np.bool_)
    for size, prefix in ((2, b""), (3, b"x"), (4, b"0x")):
        tokens = np.flatnonzero(sizes == size)
        at = starts[tokens]
        fits = _HEX[data[at + size - 2]] & _HEX[data[at + size - 1]]
        for i, byte in enumerate(prefix):
            fits &= data[at + i] == byte
        if prefix == b"x":
            fits &= data[np.maximum(at - 1, 0)] == ord("\\")
        is_byte[tokens[fits]] = True
    return _token_runs(table, is_byte)


def escape_runs(table: TextTable) -> Spans:
    """Starts and ends (bytes) of the runs of \\uXXXX escapes."""
    data, starts = table.data, table.token_starts
    tokens = np.flatnonzero(table.token_bytes == 5)
    at = starts[tokens]
    escaped = (data[at] == ord("u")) & (at > 0) & (data[np.maximum(at - 1, 0)] == ord("\\"))
    tokens, at = tokens[escaped], at[escaped]
    for i in range(1, 5):
        fits = _HEX[data[at + i]]
        tokens, at = tokens[fits], at[fits]
    is_escape = np.zeros(len(starts), dtype=np.bool_)
    is_escape[tokens] = True
    return _token_runs(table, is_escape)


def _token_runs(table: TextTable, marked: NDArray[np.bool_]) -> Spans:
    """Spans of 8 or more consecutive marked tokens of one document."""
    tokens = np.flatnonzero(marked)
    if not tokens.size:
        return tokens, tokens
    joined = np.zeros(len(tokens) - 1, dtype=np.bool_)
    pairs = np.flatnonzero(np.diff(tokens) == 1)
    document = np.searchsorted(table.token_offsets, tokens, side="right")
    pairs = pairs[document[pairs] == document[pairs + 1]]
    if pairs.size:
        other = np.frombuffer(table.data.tobytes().translate(_BETWEEN), dtype=np.bool_)
        gaps = np.empty(2 * len(pairs), dtype=np.int64)
        gaps[::2] = table.token_starts[tokens[pairs]] + table.token_bytes[tokens[pairs]]
        gaps[1::2] = table.token_starts[tokens[pairs + 1]]
        joined[pairs] = ~np.logical_or.reduceat(other, gaps)[::2]
    breaks = np.flatnonzero(~joined)
    first = tokens[np.concatenate([[0], breaks + 1])]
    last = tokens[np.concatenate([breaks, [len(tokens) - 1]])]
    long = last - first + 1 >= _LEAST_TOKENS
    first, last = first[long], last[long]
    return table.token_starts[first], table.token_starts[last] + table.token_bytes[last]
