"""The loader's contract: whatever the start, the number of hosts and the batch size, the same records in one order."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from loader import Shards
from tests.conftest import ROOT
from tests.loader.views import PAD, write_view

tf = pytest.importorskip("tensorflow")
EPOCHS, BATCH, HOSTS = 4, 64, (1, 2, 4, 8)


# Rows shift between epochs; rows that do not fit the lanes, so none shift; one component and more lanes.
SHAPES = [(8, 2, 8, (3, 1)), (8, 2, 5, (3, 2)), (16, 2, 4, (1,))]


@pytest.fixture(
    scope="module", params=[SHAPES[0], *(pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[1:])], ids=str
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shards, np.ndarray]:
    """A small view and its tokens."""
    lanes, groups, rows, weights = request.param
    folder = tmp_path_factory.mktemp("contract") / "view"
    tokens = write_view(folder, lanes, groups, rows, weights)
    return Shards(folder), tokens


def expected(shards: Shards, tokens: np.ndarray, start: int, end: int) -> np.ndarray:
    """The records at positions [start, end), by the order alone."""
    return tokens[shards.order.locate(np.arange(start, end))]


def read(shards: Shards, start: int, hosts: int, batch: int = BATCH) -> Iterator[np.ndarray]:
    """Global batches as all hosts read them together, put in the order of positions; to the end of the last epoch."""
    parts = [
        iter(shards.dataset(batch, host, hosts, start, epochs=EPOCHS, fields=("tokens",)).as_numpy_iterator())
        for host in range(hosts)
    ]
    n = start
    for together in zip(*parts, strict=True):
        rows = np.empty((batch, shards.sequence_length + 1), np.int32)
        for host, part in enumerate(together):
            positions = shards.order.host_positions(n, 1, batch, host, hosts)[0][0]
            rows[positions - n] = part["tokens"]
        yield rows
        n += batch


def restore_and_read_on(shards: Shards, tokens: np.ndarray, step: int, hosts: int) -> None:
    """All batches that remain after `step` steps of BATCH, read by `hosts` hosts, are those of the order."""
    end = EPOCHS * shards.records
    n = shards.resume(json.loads(json.dumps(shards.state(step * BATCH))))
    rows = np.concatenate(list(read(shards, n, hosts)))
    assert len(rows) == -(-(end - n) // BATCH) * BATCH
    assert np.array_equal(rows[: end - n], expected(shards, tokens, n, end))
    assert (rows[end - n :] == PAD).all()


def test_restoring_at_every_step_on_other_hosts(made: tuple[Shards, np.ndarray]) -> None:
    """The number of hosts is another one at each restore."""
    shards, tokens = made
    for step in range(EPOCHS * shards.records // BATCH):
        restore_and_read_on(shards, tokens, step, HOSTS[step % len(HOSTS)])


@pytest.mark.slow
@pytest.mark.parametrize("hosts", HOSTS)
@pytest.mark.parametrize("made", SHAPES[:1], indirect=True, ids=str)
def test_restoring_at_every_step(made: tuple[Shards, np.ndarray], hosts: int) -> None:
    shards, tokens = made
    for step in range(EPOCHS * shards.records // BATCH):
        restore_and_read_on(shards, tokens, step, hosts)


def check_starts(shards: Shards, tokens: np.ndarray, starts: Iterable[int]) -> None:
    """One host, batches that fit neither rows nor groups: the next batches are those of the order."""
    for start in starts:
        dataset = shards.dataset(5, start=start, fields=("tokens",))
        found = np.concatenate([batch["tokens"] for batch in dataset.take(3).as_numpy_iterator()])
        assert np.array_equal(found, expected(shards, tokens, start, start + 15)), start


def test_starting_anywhere(made: tuple[Shards, np.ndarray]) -> None:
    shards, tokens = made
    lanes, group, epoch = shards.order.lanes, shards.order.group_records, shards.records
    check_starts(shards, tokens, (1, lanes - 1, lanes + 3, group - 2, group + 5, epoch - 7, epoch + 9, 5 * epoch + 43))


@pytest.mark.slow
def test_starting_at_many_positions(made: tuple[Shards, np.ndarray]) -> None:
    """Each costs a graph, a quarter of a second; in steps of 11 they meet every lane and every row of a group."""
    shards, tokens = made
    check_starts(shards, tokens, range(0, shards.records, 11))


def test_hosts_and_batch_sizes_change_in_the_middle(made: tuple[Shards, np.ndarray]) -> None:
    shards, tokens = made
    n, end = 0, 2 * shards.records
    seen = []
    for hosts, batch, steps in [(1, 8, 3), (4, 8, 4), (2, 4, 2), (8, 16, 2), (1, 24, 1), (8, 8, 10**9)]:
        for _, rows in zip(range(steps), read(shards, n, hosts, batch), strict=False):
            seen.append(rows)
            n += batch
            if n >= end:
                break
    assert np.array_equal(np.concatenate(seen)[:end], expected(shards, tokens, 0, end))


@pytest.mark.parametrize("hosts", [1, 8])
def test_every_epoch_is_a_permutation_and_keeps_the_mixture(made: tuple[Shards, np.ndarray], hosts: int) -> None:
    shards, _ = made
    order = shards.order
    rows = np.concatenate(list(read(shards, 0, hosts)))[: EPOCHS * shards.records]
    numbers = rows[:, 0].reshape(EPOCHS, -1)
    assert all(np.array_equal(np.sort(epoch), 4 + np.arange(shards.records)) for epoch in numbers)
    assert not np.array_equal(numbers[0], numbers[1])
    shard, row = np.divmod(numbers.reshape(-1) - 4, order.rows)
    component = order.sequence_of_slot(shard, row)[0]
    counts = np.cumsum(component[:, None] == np.arange(len(order.weights)), axis=0)
    share = np.arange(1, len(counts) + 1)[:, None] * np.array(order.weights) / order.tile
    assert np.abs(counts - share).max() < 1


def test_two_processes_give_together_what_one_gives(made: tuple[Shards, np.ndarray]) -> None:
    shards, _ = made
    code = (
        "import sys; from loader import Shards; host, hosts = map(int, sys.argv[2:]);"
        "d = Shards(sys.argv[1]).dataset(8, host, hosts, 16, epochs=2);"
        "print([b['tokens'][:, 0].tolist() + b['component'].tolist() for b in d.as_numpy_iterator()])"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, shards.folder, str(host), str(hosts)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for host, hosts in ((0, 1), (0, 2), (1, 2))
    ]
    whole, *halves = [eval(run.communicate()[0]) for run in runs]
    assert len(whole) == len(halves[0]) == len(halves[1]) == (2 * shards.records - 16 + 7) // 8
    for batch, first, second in zip(whole, *halves, strict=True):
        assert sorted(batch) == sorted(first + second)
        assert not set(first[:4]) & set(second[:4]) - {3}
