import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from pipelines import canonical

MARKS = sorted(map(chr, canonical._decompositions()))
RUNS = st.builds(lambda marks, times: "".join(marks) * times, st.lists(st.sampled_from(MARKS)), st.integers(0, 300))
PIECES = st.one_of(RUNS, st.text(alphabet=st.characters(exclude_categories=[]), max_size=5), st.sampled_from(MARKS))


@given(pieces=st.lists(PIECES, max_size=6))
@example(pieces=["x" * 31, "\u0327\u0301" * 200, "\u1161"])
@example(pieces=["\u0f73" * 256])
def test_long_runs_of_marks_are_composed_as_python_does(pieces):
    text = "".join(pieces)
    assert canonical.nfc(text) == unicodedata.normalize("NFC", text)


@given(before=st.integers(0, 70), run=st.integers(256, 400), after=st.integers(0, 70))
def test_no_long_run_is_overlooked(before, run, after):
    assert canonical._may_hold_long_run("x" * before + "\u0301" * run + "x" * after)


def test_there_are_no_marks_beyond_the_table():
    beyond = "".join(map(chr, range(canonical._POINTS, 0x110000)))
    assert not any(map(unicodedata.combining, unicodedata.normalize("NFD", beyond)))
    assert {chr(point) for point in range(0x110000) if unicodedata.combining(chr(point))} <= set(MARKS)
