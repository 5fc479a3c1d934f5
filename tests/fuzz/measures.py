"""Target: what is measured of a text does not depend on the texts beside it, and is a number."""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines import minhash
from pipelines.cleaning import clean_code, clean_natural_language
from pipelines.language import code_language, natural_language
from pipelines.quality import first_failures, measure
from pipelines.text_table import TextTable
from schemas.rules import RULES, RuleKind
from tests.fuzz.target import Target
from tests.fuzz.texts import LONG_TEXTS, TEXTS

LANGUAGES: Final = (
    "unknown", "Python", "C", "HTML", "JSON", "YAML", "Text", "XSLT", "XML", "WebAssembly", "SQL", "Emacs Lisp", "TeX",
    "Fortran", "VimL", "Groff", "Markdown", "en", "de", "zh", "ja", "th",
)  # fmt: skip
SHARES: Final = frozenset(
    {"comment_ratio", "alphabetic_fraction", "encoded_fraction", "html_visible_fraction", "unique_word_ratio"}
    | {"short_document_repetition", "alphabetic_words", "bullet_lines", "ellipsis_lines", "short_lines"}
    | {"terminal_punctuation_lines", "duplicate_lines", "duplicate_paragraphs", "duplicate_line_characters"}
    | {"duplicate_paragraph_characters"} | {f"duplicate_{n}gram_characters" for n in range(5, 11)}
)  # fmt: skip
"""Rules whose value is a part of a whole."""

Measured = tuple[dict[str, NDArray[np.float64]], list[NDArray[np.uint32]], NDArray[np.uint32], NDArray[np.int64]]


def _measured(texts: list[str], kind: RuleKind, languages: list[str], k: int) -> Measured:
    table = TextTable.from_texts(texts)
    rules = [name for name, rule in RULES.items() if kind in rule.kinds]
    values = measure(table, texts, kind, languages, [f"d/{language}.txt" for language in languages], rules)
    shingles, offsets = minhash.shingle_hashes(table, k)
    signatures = minhash.signatures(shingles, offsets, 16)
    return values, np.split(shingles, offsets[1:-1]), signatures, np.diff(table.token_offsets)


def measures_law(texts: list[tuple[str, str]], kind: RuleKind, k: int, cleaned: bool) -> None:
    """Each (text, language) of a batch has the values, shingles and signature it has alone; none is infinite."""
    clean = clean_code if kind == "code" else clean_natural_language
    contents = [clean(text) if cleaned else text for text, _ in texts]
    languages = [language for _, language in texts]
    with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise"):
        warnings.simplefilter("error")
        values, shingles, signatures, tokens = _measured(contents, kind, languages, k)
        bounds = {name: (RULES[name].min, RULES[name].max) for name in values}
        failures = first_failures(values, bounds)
        for i, (text, language) in enumerate(zip(contents, languages, strict=True)):
            alone, alone_shingles, alone_signature, alone_tokens = _measured([text], kind, [language], k)
            for name, column in values.items():
                assert np.array_equal(column[i : i + 1], alone[name], equal_nan=True), name
                assert not np.isinf(column[i]) and not column[i] < 0, (name, column[i])
                assert name not in SHARES or not column[i] > 1, (name, column[i])
            assert np.array_equal(shingles[i], alone_shingles[0])
            assert np.array_equal(signatures[i], alone_signature[0])
            assert tokens[i] == alone_tokens[0]
            assert failures[i] == first_failures(alone, bounds)[0]


def language_law(texts: list[str], path: str) -> None:
    """A language is a short name, the same alone as in a batch, with a probability."""
    assert 0 < len(code_language(path)) < 60
    together = natural_language(texts)
    assert together == [natural_language([text])[0] for text in texts]
    for language, probability in together:
        assert language and language.isascii() and 0 <= probability <= 1


_TEXTS: Final = st.one_of(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, LONG_TEXTS)
TARGETS: Final = [
    Target(
        "measures",
        measures_law,
        {
            "texts": st.lists(st.tuples(_TEXTS, st.sampled_from(LANGUAGES)), min_size=1, max_size=5),
            "kind": st.sampled_from(["code", "natural_language"]),
            "k": st.integers(1, 9),
            "cleaned": st.booleans(),
        },
    ),
    Target("language", language_law, {"texts": st.lists(TEXTS, max_size=4), "path": TEXTS}),
]
