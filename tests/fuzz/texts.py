"""Strategies for texts: anything Unicode has, and what real and hostile files are made of."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

ODD: Final = (
    " ", "  ", "\t", "\n", "\n\n\n", "\r", "\r\n", "\n\r", "\v", "\f", "\0", "\x1b", "\x1c", "\x1d", "\x1e",
    "\x1f", "\x7f", "\x80", "\x85", "\x9f", "\xa0", "\xad", "\u0301", "\u0301\u0327", "\u0345", "\u034f",
    "\u1160", "\u1680", "\u180e", "\u2000", "\u200a", "\u200b", "\u200d", "\u200e", "\u202e", "\u2028",
    "\u2029", "\u205f", "\u2060", "\u2066", "\u3000", "\ufe0f", "\ufeff", "\ufffd", "\ufffe", "\ud800",
    "\udfff", "\U000e0001", "\U0010ffff", "e\u0301", "\u212b", "\u0130", "\ufb01", "\u1100\u1161\u11a8",
    "\uac00", "\u0958", "\u2126", "\U0001d15e", "\u0f71\u0f72", "\u0f73", "\u09c7\u09be", "👩\u200d👩\u200d👧",
    "🏳\ufe0f\u200d🌈", "中文", "かな", "ไทย", "ｶﾞ", "עברית", "नमस्ते",
)  # fmt: skip
WORDS: Final = (
    "a", "the", "and", "of", "to", "_x1", "x = 1", "def f(x):", "    return ", "// c", "/*", "* ", "*/", "#", "--", ";",
    "...", "…", "•", "-", "‣", "–", ".", "?", '"', "<?xml version=", "<!--", "-->", "<script", "</script>", "<p>", "<",
    "auto-generated", "0x1f, ", "\\x41", "\\u0041", "ff ", "AB", "QUJD", "+/=", "12345678", "é", "ß", "½", "²",
    "<s>", "</s>", "<pad>", "<|fim_hole|>", "<unk>", "<0x0A>", "\u2581", "\u2585", "\ufdd0", "⁇",
)  # fmt: skip
_ANY: Final = st.text(alphabet=st.characters(exclude_categories=[]), max_size=8)
_PIECE: Final = st.one_of(st.sampled_from(ODD), st.sampled_from(WORDS), _ANY)
_REPEATED: Final = st.builds(
    lambda piece, times: piece * times,
    _PIECE,
    st.sampled_from([2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 200, 300]),
)
TEXTS: Final = st.lists(st.one_of(_PIECE, _PIECE, _REPEATED), max_size=24).map("".join)
"""Any text, lone surrogates included."""
LONG_TEXTS: Final = st.builds(
    lambda text, unit, times: text + unit * times,
    TEXTS,
    st.sampled_from(["a ", "b", "中", "é", "\n", " ", "x y\n", "ff,", "\\u00e9", "QQ", "\ufeff", "e\u0301"]),
    st.sampled_from([4095, 8192, 16383, 16384, 16385, 32767, 32768, 32769, 65535, 65536, 65537]),
)
"""Texts around the sizes of the blocks things are worked on in."""
UNICODE: Final = TEXTS.map(lambda text: text.encode("utf-8", "ignore").decode("utf-8"))
"""Texts without lone surrogates."""
