"""What is saved comes back, bit by bit, whatever its shape, dtype and values, and whoever asks for which slice."""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from schemas.errors import Refused
from tests.trainer.checkpoint.tiny import State, assert_holds, owned, save, saved, state
from trainer.checkpoint import ArrayInfo, Owned, Saver, newest_good, open_step
from trainer.checkpoint.arrays import DTYPES, Grid
from trainer.checkpoint.pieces import HostCopy, cover
from trainer.checkpoint.records import Piece

shapes = st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Any bits of any dtype: NaNs with payloads, infinities, negative zeros, subnormals."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(shapes)
    size = math.prod(shape) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    raw = raw % 2 if dtype.kind == "b" else raw
    return raw.view(dtype).reshape(shape)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abc/_.é ", min_size=1, max_size=8), arrays(), max_size=5), st.data())
def test_any_arrays_come_back_bit_by_bit_whole_and_in_slices(content: State, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Saver(folder) as saver:
            saver.save(3, [Owned.whole(name, array) for name, array in content.items()], {"names": sorted(content)})
        checkpoint = newest_good(folder).checkpoint
        assert checkpoint is not None
        assert checkpoint.meta == {"names": sorted(content)}
        assert_holds(checkpoint, content)
        for name, array in content.items():
            assert checkpoint.read(name).shape == array.shape
            index = tuple(slice(*sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2)))) for size in array.shape)
            assert checkpoint.read(name, index).tobytes() == array[index].tobytes()


@st.composite
def split(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[slice, ...]]]:
    """A shape and a cut of it into boxes, each axis cut anywhere."""
    shape = draw(st_numpy.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=9))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    axes = [[slice(a, b) for a, b in itertools.pairwise(cut)] for cut in cuts]
    return shape, list(itertools.product(*axes))


@settings(max_examples=30, deadline=None)
@given(split(), st.data())
def test_pieces_of_any_cut_make_up_the_array(cut: tuple[tuple[int, ...], list[tuple[slice, ...]]], data: Any) -> None:
    shape, boxes = cut
    array = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    order = data.draw(st.permutations(boxes))
    pieces = [Owned("a", array[box], shape, tuple(each.start for each in box)) for box in order]
    with tempfile.TemporaryDirectory() as folder:
        with Saver(folder) as saver:
            saver.save(1, pieces, {})
        index = tuple(slice(*sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2)))) for size in shape)
        np.testing.assert_array_equal(open_step(folder, 1).read("a", index), array[index])
        if len(pieces) > 1:
            with Saver(folder) as saver:
                saver.save(2, pieces[1:], {})
                (outcome,) = saver.wait()
            assert "not committed: a: its pieces have" in str(outcome.error)
            assert not (Path(folder) / "step-00000002" / "COMMIT.json").exists()


@given(split(), st.data())
def test_an_overlap_is_found(cut: tuple[tuple[int, ...], list[tuple[slice, ...]]], data: Any) -> None:
    shape, boxes = cut

    def piece(box: tuple[slice, ...]) -> Piece:
        offset, size = [each.start for each in box], [each.stop - each.start for each in box]
        return Piece(name="a", dtype="int8", global_shape=list(shape), offset=offset, shape=size, start=0)

    assert cover("a", [piece(box) for box in boxes]) is None
    # One box in place of another of the same size: the count is right, an element is there twice.
    replaced = data.draw(st.integers(0, len(boxes) - 1))
    sizes = [math.prod(each.stop - each.start for each in box) for box in boxes]
    for other, box in enumerate(boxes):
        if other != replaced and sizes[other] == sizes[replaced]:
            wrong = [box if i == replaced else each for i, each in enumerate(boxes)]
            assert "twice" in str(cover("a", [piece(each) for each in wrong]))


def test_a_large_array_of_several_files(tmp_path: Path) -> None:
    """More elements than a file holds, and not a multiple of a chunk; zeros too, which zarr would leave out."""
    content = {
        "a": np.random.default_rng(0).standard_normal(9_000_001, np.float32),
        "zeros": np.zeros(9_000_001, ml_dtypes.bfloat16),
    }
    saved(tmp_path, 1, content)
    checkpoint = open_step(str(tmp_path), 1)
    assert len(checkpoint.manifests[0].files) == Grid("float32", 9_000_001).files + 2 + 1 == 2 + 2 + 1
    assert_holds(checkpoint, content)
    for begin, end in ((8_388_600, 8_388_620), (262_143, 262_145), (9_000_000, 9_000_001)):
        np.testing.assert_array_equal(checkpoint.read("a", (slice(begin, end),)), content["a"][begin:end])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 3), (3, 1)])
def test_another_number_of_processes_reads_its_slices(tmp_path: Path, before: int, after: int) -> None:
    content = state(5)
    saved(tmp_path, 1, content, processes=before)
    checkpoint = open_step(str(tmp_path), 1)
    assert_holds(checkpoint, content)
    for process in range(after):
        for piece in owned(content, process, after):
            index = (slice(piece.offset[0], piece.offset[0] + piece.array.size),)
            assert checkpoint.read(piece.name, index).tobytes() == piece.array.tobytes()


WRITER = """
import sys, time
from pathlib import Path
from tests.trainer.checkpoint.tiny import owned, state
from trainer.checkpoint import Saver, open_step
directory, process, processes, run = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
begun = Path(directory + ".begun")
while process and not begun.exists():  # a run's first step comes after all savers are made
    time.sleep(0.01)
with Saver(directory, process=process, processes=processes, run=run) as saver:
    begun.touch()
    for step in (10, 20):
        saver.save(step, owned(state(step), process, processes), {"step": step})
"""


def test_processes_of_their_own_save_together(tmp_path: Path) -> None:
    """1 -> 2 -> 3 real processes, each count from what the one before has written."""
    for processes in (2, 3):
        folder = tmp_path / str(processes)
        running = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(process), str(processes), "run"])
            for process in range(processes)
        ]
        assert [each.wait(timeout=300) for each in running] == [0] * processes
        for step in (10, 20):
            checkpoint = open_step(str(folder), step)
            assert checkpoint.meta == {"step": step}
            assert_holds(checkpoint, state(step))


@pytest.mark.parametrize(
    ("command", "words"),
    [("rm -r process-00001-of-00002", "is missing"), ("truncate -s -1 process-00001-of-00002/int64/c/0", "instead of")],
)
def test_no_marker_is_written_over_files_that_are_not_there(tmp_path: Path, command: str, words: str) -> None:
    """As when a second run takes the first's unfinished save for a leftover."""
    first = Saver(str(tmp_path), process=0, processes=2, run="a", wait_seconds=60)
    second = Saver(str(tmp_path), process=1, processes=2, run="a")
    second.save(7, owned(state(7), 1, 2), {})
    second.wait()
    subprocess.run(command.split(), cwd=tmp_path / "step-00000007", check=True)
    first.save(7, owned(state(7), 0, 2), {})
    (outcome,) = first.wait()
    assert "not committed" in str(outcome.error)
    assert words in str(outcome.error)
    assert newest_good(str(tmp_path)).checkpoint is None


def test_a_missing_process_is_waited_for_and_named(tmp_path: Path) -> None:
    with Saver(str(tmp_path), process=0, processes=2, run="a", wait_seconds=0.2) as saver:
        saver.save(7, owned(state(7), 0, 2), {})
        (outcome,) = saver.wait()
    assert "process 1 has not written it after 0.2 s" in str(outcome.error)
    assert newest_good(str(tmp_path)).checkpoint is None


def test_a_manifest_of_an_earlier_try_does_not_count(tmp_path: Path) -> None:
    """Process 1 has written before the kill; the same step is saved again and process 1 is late."""
    late = Saver(str(tmp_path), process=1, processes=2, run="before")
    late.save(7, owned(state(7), 1, 2), {})
    assert late.wait()[0].error is None
    shutil.copytree(tmp_path / "step-00000007", tmp_path / "kept")
    first = Saver(str(tmp_path), process=0, processes=2, run="after", wait_seconds=60)
    assert not (tmp_path / "step-00000007").exists()
    (tmp_path / "kept").rename(tmp_path / "step-00000007")  # even if it were there
    first.save(7, owned(state(8), 0, 2), {})
    time.sleep(0.5)
    second = Saver(str(tmp_path), process=1, processes=2, run="after")
    second.save(7, owned(state(8), 1, 2), {})
    assert [saver.wait()[0].error for saver in (first, second)] == [None, None]
    assert_holds(open_step(str(tmp_path), 7), state(8))


def test_a_process_that_fails_stops_the_others_waiting(tmp_path: Path) -> None:
    first = Saver(str(tmp_path), process=0, processes=2, run="a", wait_seconds=300)
    second = Saver(str(tmp_path), process=1, processes=2, run="a")
    # Something it cannot replace is where its arrays belong.
    (tmp_path / "step-00000007").mkdir()
    (tmp_path / "step-00000007" / "process-00001-of-00002").write_text("")
    second.save(7, owned(state(7), 1, 2), {})
    first.save(7, owned(state(7), 0, 2), {})
    (mine,), (theirs,) = first.wait(), second.wait()
    assert "process-00001-of-00002" in str(theirs.error)
    assert f"process 1 failed: {theirs.error}" in str(mine.error)


def test_the_copy_is_a_copy_and_is_used_again(tmp_path: Path) -> None:
    array = np.arange(1000, dtype=np.float32)
    wanted = array.copy()
    saver = Saver(str(tmp_path))
    saver.prepare([Owned.whole("a", array)])
    buffer = saver._copy.buffers["float32"]
    saver.save(1, [Owned.whole("a", array)], {})
    array[:] = -1  # training goes on
    saver.wait()
    assert saver._copy.buffers["float32"] is buffer
    np.testing.assert_array_equal(open_step(str(tmp_path), 1).read("a"), wanted)


class Variable:
    """What a copy sees of TensorFlow's: `numpy()` would be a second copy."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value
        self.shape = value.shape

    def read_value(self) -> np.ndarray:
        return self.value


def test_variables_and_slices_that_are_not_contiguous() -> None:
    array = np.arange(24, dtype=np.int16).reshape(4, 6)
    copy = HostCopy()
    copy.take([Owned.whole("v", Variable(array)), Owned("s", array[1:3, ::2], (4, 3), (2, 0))])
    first, second = copy.pieces
    assert (first.start, second.start) == (0, 24)
    np.testing.assert_array_equal(copy.buffers["int16"], [*array.ravel(), *array[1:3, ::2].ravel()])


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        (Owned.whole("x", np.array(["a"])), "x: arrays of <U1 cannot be saved"),
        (Owned.whole("x", np.array([None])), "x: arrays of object cannot be saved"),
        (Owned.whole("x", np.zeros(2, ">f4")), "x: arrays of >f4 cannot be saved"),
        (Owned("x", np.zeros(3), (4,), (2,)), "at (2,) is not in an array of shape (4,)"),
        (Owned("x", np.zeros(3), (4, 1), (0,)), "is not in an array"),
        (Owned("x", np.zeros(3), (4,), (-1,)), "at (-1,) is not in an array"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path: Path, piece: Owned, words: str) -> None:
    saver = Saver(str(tmp_path))
    with pytest.raises(Refused) as refused:
        saver.save(1, [piece], {})
    assert words in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("meta", [{"loss": math.nan}, {"loss": [math.inf]}, {"a": {1, 2}}, {"a": np.float32(1)}])
def test_meta_that_is_not_json_is_refused(tmp_path: Path, meta: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="meta cannot be saved as JSON"):
        Saver(str(tmp_path)).save(1, owned(state(1)), meta)


def test_other_arrays_than_expected_are_refused(tmp_path: Path) -> None:
    with Saver(str(tmp_path)) as saver:
        saver.save(1, [Owned.whole("a", np.zeros((2, 3), np.float32)), Owned.whole("b", np.zeros(4, np.int32))], {})
    checkpoint = open_step(str(tmp_path), 1)
    right = {"a": ArrayInfo("float32", (2, 3)), "b": ArrayInfo("int32", (4,))}
    checkpoint.require(right)
    for wrong, words in (
        ({**right, "c": ArrayInfo("int8", ())}, "c: missing"),
        ({"a": right["a"]}, "b: not known here"),
        ({**right, "a": ArrayInfo("float32", (3, 2))}, r"a: float32 \(2, 3\) instead of float32 \(3, 2\)"),
        ({**right, "b": ArrayInfo("int64", (4,))}, "b: int32"),
    ):
        with pytest.raises(Refused, match=words):
            checkpoint.require(wrong)
    for name, index in (("z", None), ("a", (slice(0, 1),)), ("b", (slice(0, 4, 2),))):
        with pytest.raises(Refused):
            checkpoint.read(name, index)


def test_nothing_here_needs_tensorflow() -> None:
    code = "import sys, trainer.checkpoint, trainer.checkpoint.cli; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_bytes_of_gaussian_state(tmp_path: Path) -> None:
    """FP32 weights and two BF16 moments in at most 0.55 of 12 bytes a parameter."""
    rng, n = np.random.default_rng(0), 1_000_000
    content = {name: rng.standard_normal(n, np.float32) * np.float32(0.02) for name in ("w", "m", "v")}
    content = {"w": content["w"], **{name: content[name].astype(ml_dtypes.bfloat16) for name in ("m", "v")}}
    (outcome,) = save(tmp_path, 1, content)
    assert outcome.raw_bytes == 8 * n
    assert outcome.bytes <= 0.55 * 12 * n
