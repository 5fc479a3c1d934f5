import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.cleaning import clean_code, clean_natural_language

ANY = st.text(alphabet=st.characters(exclude_categories=[]), max_size=60)
TRICKY = st.text(alphabet="ab \t\n\r\v\f\0\x1c\x7f\x80\x85\xa0\u0301\u200b\u2028\u2029\u3000\ufeffé\ud800中")
TEXTS = st.one_of(ANY, TRICKY)


@pytest.mark.parametrize("clean", [clean_code, clean_natural_language])
@given(text=TEXTS)
@example(text="\n\ufeff \nx")
@example(text="a \x80 \u2028\u0301b")
def test_cleaning_twice_is_cleaning_once(clean, text):
    once = clean(text)
    assert clean(once) == once


@given(text=TEXTS)
def test_code_keeps_every_character_but_white_space_newlines_and_leading_marks(text):
    def bare(value):
        return [c for c in value if c not in " \t\v\f\r\n\ufeff"]

    cleaned = clean_code(text)
    assert bare(cleaned) == bare(text)
    assert not cleaned.startswith(("\n", "\ufeff")) and not cleaned.endswith("\n")
    assert all(line == line.rstrip(" \t\v\f") for line in cleaned.split("\n"))


@given(text=TEXTS)
def test_natural_language_is_normal_and_free_of_controls(text):
    cleaned = clean_natural_language(text)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not any(unicodedata.category(c) == "Cc" and c != "\n" for c in cleaned)
    assert "  " not in cleaned and "\n\n\n" not in cleaned
    assert all(line == line.rstrip() for line in cleaned.split("\n"))
    assert not cleaned.startswith(("\n", "\ufeff")) and not cleaned.endswith("\n")


@given(text=TEXTS)
def test_natural_language_keeps_letters_in_order(text):
    def letters(value):
        return [c for c in unicodedata.normalize("NFD", value) if unicodedata.category(c)[0] == "L"]

    assert letters(clean_natural_language(text)) == letters(text)


def test_code_by_example():
    assert clean_code("\ufeff\r\n  \r\n\tif x:  \r\t\treturn 1\t\n\n\n  y \f\n \n") == (
        "\tif x:\n\t\treturn 1\n\n\n  y"
    )
    assert clean_code("é = 1  \n") == "é = 1"
    assert clean_code("") == clean_code(" \n\t\n") == ""


def test_natural_language_by_example():
    assert clean_natural_language("A  b\tc \r\n d\u00a0e\u3000\n\n\n\nnext\x0cpage\x00\x1b") == (
        "A b c\n d\u00a0e\n\nnext\npage"
    )
    assert clean_natural_language("e\x00\u0301") == "é"
    assert clean_natural_language("été \u0085 fin\u2029x") == "été\n fin\nx"


@pytest.mark.parametrize("clean", [clean_code, clean_natural_language])
@pytest.mark.parametrize("unit", [" ", "\t", "\n", "\u3000", " \n", "\u0301\u0327", "\u0f73", "\u0301\x80\u0327"])
def test_a_megabyte_of_white_space_or_marks_takes_linear_time(clean, unit):
    text = "x" + unit * 1_000_000 + "y"
    start = time.process_time()
    cleaned = clean(text)
    assert time.process_time() - start < 3
    assert cleaned[0] == "x" and cleaned[-1] == "y"
