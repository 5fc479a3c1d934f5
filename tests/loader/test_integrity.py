"""Damage met while reading: an error that names shard, record and the way out; no wrong record, no early end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from loader import Shards
from schemas.errors import TokenmillError
from schemas.record import record_size
from tests.loader.views import write_view

tf = pytest.importorskip("tensorflow")

LANES, ROWS, LENGTH = 4, 8, 12
SIZE = record_size(LENGTH, "<u2")
DAMAGED = "train-00002-of-00008.tfrecord"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("integrity") / "view"
    write_view(folder, LANES, 2, ROWS, length=LENGTH)
    return folder


@pytest.fixture
def view(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "view"))


def flip(at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 4
        path.write_bytes(data)

    return change


def cut(at: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:at]) and None  # type: ignore[func-returns-value]


def told(view: Path, start: int = 0, epochs: int = 1) -> tuple[str, int]:
    """What reading to the end says, and the batches that came before."""
    count = 0
    # Mapped and batched further: the sentence must come through whatever is built on the dataset.
    dataset = Shards(view).dataset(4, start=start, epochs=epochs).map(lambda batch: batch["tokens"]).batch(2)
    with pytest.raises(tf.errors.OpError) as failed:
        for _ in dataset:
            count += 1
    return failed.value.message, count


@pytest.mark.parametrize(
    ("change", "row", "reason"),
    [
        (flip(5 * SIZE + 40), 5, "checksum of its"),
        (flip(5 * SIZE + 2), 5, "altered header"),
        (flip(6 * SIZE - 1), 5, "checksum of its"),
        (flip(3 * SIZE + 14), 3, "checksum of its"),
    ],
)
def test_a_flipped_bit_names_shard_and_record(view: Path, change: Callable, row: int, reason: str) -> None:
    change(view / DAMAGED)
    message, batches = told(view)
    assert DAMAGED in message
    assert f"record {row} at byte {row * SIZE}" in message
    assert reason in message
    assert "loader verify" in message
    assert batches == row // 2  # two batches of 4 are two rows of 4 lanes


@pytest.mark.parametrize("at", [5 * SIZE, 5 * SIZE + 7, 5 * SIZE + 40, 8 * SIZE - 1, 0])
def test_a_cut_shard_is_told_before_it_is_read(view: Path, at: int) -> None:
    cut(at)(view / DAMAGED)
    message, batches = told(view)
    assert DAMAGED in message
    assert f"has {at} bytes" in message
    assert f"{at // SIZE} whole records" in message
    assert batches == 0


def test_swapped_and_longer_shards_are_told(view: Path) -> None:
    other = view / "train-00005-of-00008.tfrecord"
    data = other.read_bytes()
    other.write_bytes((view / DAMAGED).read_bytes())
    (view / DAMAGED).write_bytes(data)
    message, _ = told(view)
    assert DAMAGED in message
    assert "another shard" in message
    (view / DAMAGED).write_bytes(data + data[:SIZE])
    assert f"has {9 * SIZE} bytes" in told(view)[0]


def test_damage_is_found_from_a_start_in_the_middle_and_in_later_epochs(view: Path) -> None:
    flip(5 * SIZE + 40)(view / DAMAGED)
    for start in (4 * LANES, 2 * LANES * ROWS, 5 * LANES * ROWS):
        message, _ = told(view, start, epochs=4)
        assert DAMAGED in message
        assert "record 5" in message


def test_missing_and_unknown_shards_are_refused_at_the_start(view: Path) -> None:
    (view / DAMAGED).rename(view / "train-00002-of-00009.tfrecord")
    with pytest.raises(TokenmillError, match=r"train-00002-of-00009\.tfrecord"):
        Shards(view)
    (view / "train-00002-of-00009.tfrecord").unlink()
    with pytest.raises(TokenmillError, match=DAMAGED):
        Shards(view).dataset(4)
    host = Shards(view).dataset(4, host=1, hosts=2, epochs=1)  # reads lanes 1 and 3 alone, which are whole
    assert sum(1 for _ in host) == 16


def test_a_shard_that_vanishes_while_reading_ends_it(view: Path) -> None:
    """In later epochs a file is opened again for the rows before its first: trying for ever would be a hang."""
    shards = Shards(view)
    iterator = iter(shards.dataset(4, start=shards.records))
    next(iterator)
    for path in view.glob("train-*"):
        path.unlink()
    with pytest.raises(tf.errors.OpError, match=r"train-0000\d-of-00008.tfrecord"):
        for _ in range(3 * ROWS):
            next(iterator)


def test_a_record_of_something_else_is_told(view: Path) -> None:
    """Sound frames and the right size, ends as stated, but one record is no Example of tokens."""
    from schemas.record import frame, read_records  # noqa: PLC0415

    path = view / DAMAGED
    with path.open("rb") as file:
        payloads = list(read_records(file))
    payloads[4] = b"\x0b" + payloads[4][1:]
    path.write_bytes(b"".join(map(frame, payloads)))
    message, _ = told(view)
    assert DAMAGED in message
    assert "record 4" in message
    assert "not a record of tokens" in message


def test_a_damaged_validation_shard_is_told(view: Path) -> None:
    path = next(view.glob("validation-c0-00001-*"))
    flip(2 * SIZE + 40)(path)
    dataset = Shards(view).dataset(2, split="validation", component="c0")
    with pytest.raises(tf.errors.OpError, match=f"{path.name}: record 2"):
        list(dataset)


class Held:
    """A stand-in for a cache: real files elsewhere, and a note of what is held."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names
        self.planned: list[int] = []
        self.acquired: list[int] = []
        self.held: list[int] = []
        self.most = 0

    def plan(self, shards: object) -> None:
        self.planned = [int(next(shards)) for _ in range(16)]  # type: ignore[call-overload]

    def acquire(self, shard: int) -> str:
        self.acquired.append(shard)
        self.held.append(shard)
        self.most = max(self.most, len(self.held))
        return str(self.folder / self.names[shard])

    def release(self, shard: int) -> None:
        self.held.remove(shard)

    def close(self) -> None:
        self.held.clear()


def test_shards_are_acquired_as_planned_and_released(sound: Path) -> None:
    shards = Shards(sound)
    files = Held(sound, [file.path for file in shards.files])
    dataset = shards.dataset(4, epochs=2, cache=files)
    direct = [batch["tokens"].numpy() for batch in shards.dataset(4, epochs=2)]
    assert np.array_equal([batch["tokens"].numpy() for batch in dataset], direct)
    assert files.acquired == files.planned
    assert files.held == []
    assert files.most == LANES
    next(iter(dataset))  # given up early: the next reading gives back what it held
    assert sum(1 for _ in dataset) == len(direct)
    assert files.held == []
