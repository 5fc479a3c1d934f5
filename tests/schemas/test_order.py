"""The laws of the training order: exact mixture, one computed order, any number of hosts, all invertible."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.order_at_scale import measure
from schemas.errors import Refused
from schemas.order import Order, validation_positions
from tests.schemas.test_mixture import bound, prefix_error, weight_lists


@st.composite
def orders(draw: st.DrawFn, most_records: int = 8000) -> Order:
    weights = draw(weight_lists(9))
    lanes = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16]))
    period = sum(weights) // math.gcd(sum(weights), lanes)
    group = draw(st.sampled_from([1, 2, 3, lanes, 2 * lanes])) * period * lanes
    assume(group <= most_records)
    groups = draw(st.integers(1, max(1, min(70, most_records // group))))
    counts = [weight * (group * groups // sum(weights)) for weight in weights]
    available = tuple(
        draw(st.integers(max(1, count // 3), count + 5)) if count else draw(st.integers(0, 3)) for count in counts
    )
    names = tuple("abcdefg"[: len(weights)])
    return Order(draw(st.integers(0, 99)), lanes, groups, group // lanes, weights, available, names)


@given(orders())
@settings(max_examples=60, deadline=None)
def test_every_prefix_of_four_epochs_holds_the_mixture(order: Order) -> None:
    n = np.arange(4 * order.records)
    component, _, _ = order.sequence_of_slot(*order.locate(n))  # what the files hold, not what the pattern says
    assert prefix_error(component, order.weights) <= bound(order.weights) < 1
    assert np.array_equal(component, order.component_at(n))


@given(orders())
@settings(max_examples=60, deadline=None)
def test_every_epoch_reads_every_record_once(order: Order) -> None:
    for epoch in range(4):
        n = np.arange(order.records) + epoch * order.records
        shard, row = order.locate(n)
        assert np.array_equal(np.sort(shard * order.rows + row), np.arange(order.records))
        assert np.array_equal(order.position_of(shard, row, epoch), n)
        assert np.array_equal(shard % order.lanes, order.lane_at(n))


@pytest.mark.parametrize(("groups", "rows"), [(9, 400), (40, 25), (1, 4000)])
def test_later_epochs_bring_other_neighbours(groups: int, rows: int) -> None:
    order = Order(5, 16, groups, rows, (87, 13), (50_000, 9_000), ("code", "prose"))
    followers = []
    for epoch in range(4):
        shard, row = order.locate(np.arange(order.records) + epoch * order.records)
        record = shard * order.rows + row
        follower = np.empty(order.records, dtype=np.int64)
        follower[record] = np.roll(record, -1)
        followers.append(follower)
    for e in range(4):
        for f in range(e):
            assert (followers[e] == followers[f]).mean() < 0.2


@given(orders())
@settings(max_examples=60, deadline=None)
def test_records_and_sequences_invert_each_other(order: Order) -> None:
    n = np.arange(order.records)
    component, sequence, repeat = order.sequence_at(n)
    assert np.array_equal(np.stack(order.sequence_of_slot(*order.locate(n))), np.stack((component, sequence, repeat)))
    for c, have in enumerate(order.available):
        mine = component == c
        assert mine.sum() == order.counts[c]
        assert np.array_equal(order.positions_of(c, sequence[mine], repeat[mine]), n[mine])
        passes = -(-order.counts[c] // have) if have else 0
        for r in range(passes + 1):
            position = order.positions_of(c, np.arange(have), r)
            left = min(have, max(0, order.counts[c] - r * have))
            assert (position >= 0).sum() == left
            assert np.array_equal(np.sort(position[position >= 0]), n[mine & (repeat == r)])


def test_each_repeat_and_each_component_is_shuffled_anew() -> None:
    order = Order(1, 1, 1, 400, (1, 1), (100, 100), ("a", "b"))
    component, sequence, repeat = order.sequence_at(np.arange(400))
    passes = {tuple(sequence[(component == c) & (repeat == r)].tolist()) for c in range(2) for r in range(2)}
    assert len(passes) == 4
    assert all(sorted(one) == list(range(100)) for one in passes)


def test_seeds_give_different_orders() -> None:
    def content(seed: int) -> bytes:
        return Order(seed, 1, 1, 400, (1,), (400,), ("a",)).sequence_at(np.arange(400))[1].tobytes()

    assert content(1) == content(1) != content(2)


@given(orders(), st.data())
@settings(max_examples=60, deadline=None)
def test_any_number_of_hosts_reads_the_same_global_batches(order: Order, data: st.DataObject) -> None:
    batch = data.draw(st.sampled_from([4, 12, 16, 24, 48]))
    possible = [h for h in (1, 2, 3, 4, 8) if order.lanes % h == 0 and batch % h == 0]
    start = data.draw(st.integers(0, 2 * order.records // batch)) * batch
    for hosts in possible:
        parts = []
        for host in range(hosts):
            n, shard, row = order.host_positions(start, 5, batch, host, hosts)
            assert n.shape == shard.shape == row.shape == (5, batch // hosts)
            assert (np.diff(n.reshape(-1)) > 0).all()
            assert (shard % order.lanes % hosts == host).all()
            assert np.array_equal(np.stack((shard, row)), np.stack(order.locate(n)))
            parts.append(n)
        together = np.sort(np.concatenate(parts, axis=1), axis=1)
        assert np.array_equal(together, start + np.arange(5 * batch).reshape(5, batch))


@given(orders(most_records=3000), st.data())
@settings(max_examples=40, deadline=None)
def test_lanes_read_their_files_in_order_from_any_position(order: Order, data: st.DataObject) -> None:
    epochs = 3
    n = np.arange(epochs * order.records)
    shard, row = order.locate(n)
    lane_of = order.lane_at(n)
    start = data.draw(st.integers(0, n.size))
    before = order.lane_records_before(start)
    for lane in range(order.lanes):
        read = []
        for epoch in range(epochs):
            files, firsts = order.lane_slots(epoch, lane)
            for file, first in zip(files.tolist(), firsts.tolist(), strict=True):
                read += [(file, (first + k) % order.rows) for k in range(order.rows)]
        mine = lane_of == lane
        assert read == list(zip(shard[mine].tolist(), row[mine].tolist(), strict=True))
        assert before[lane] == (mine & (n < start)).sum()


def test_the_diagonal_spreads_a_component_over_lanes() -> None:
    order = Order(1, 16, 1, 16, (1, 7), (32, 224), ("rare", "common"))
    n = np.arange(order.records)
    rare = order.component_at(n) == 0
    assert np.bincount(order.lane_at(n[rare]), minlength=16).tolist() == [2] * 16


@pytest.mark.parametrize(
    ("start", "batch", "host", "hosts", "sentence"),
    [
        (0, 24, 0, 3, "3 hosts cannot share 16 lanes and a global batch of 24 evenly; .*: 1, 2, 4, 8$"),
        (0, 24, 0, 16, "possible numbers of hosts: 1, 2, 4, 8$"),
        (0, 24, 4, 4, "there is no host 4 of 4"),
        (6, 24, 0, 4, "cannot start at position 6, .*before it is 4"),
    ],
)
def test_impossible_hosts_are_refused_with_what_would_work(
    start: int, batch: int, host: int, hosts: int, sentence: str
) -> None:
    order = Order(1, 16, 2, 25, (87, 13), (696, 104), ("code", "prose"))
    with pytest.raises(Refused, match=sentence):
        order.host_positions(start, 1, batch, host, hosts)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ((16, 1, 24, (87, 13), (9, 9), ("a", "b")), "24 rows and 16 lanes does not hold whole tiles of 100"),
        ((0, 1, 25, (1,), (9,), ("a",)), "0 lanes"),
        ((4, 1, 25, (87, 13), (9, 9), ("a", "a")), "one distinct name"),
        ((4, 1, 25, (87, 13), (9, 0), ("a", "b")), "has no sequences"),
    ],
)
def test_an_order_that_cannot_be_is_an_error(parts: tuple, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Order(1, *parts)


def test_the_example_of_the_documentation() -> None:
    """Every row of the tables in docs/order.md, some of them pinned here as well."""
    order = Order(17, 2, 2, 3, (2, 1), (8, 2), ("code", "prose"))
    assert (order.records, order.tile, order.period, order.counts) == (12, 3, 3, (8, 4))
    text = (Path(__file__).parents[2] / "docs" / "order.md").read_text(encoding="utf-8")
    printed = [line.strip("| ").split(" | ") for line in text.splitlines() if line.count("|") == 11]
    printed = [cells for cells in printed if cells[0].isdigit()]
    n = np.arange(24)
    step, q = n % 12 // 6, n % 6
    component, sequence, repeat = order.sequence_at(n)
    columns = (n, step, q // 2, q % 2, order.lane_at(n), *order.locate(n), component, sequence, repeat)
    computed = [[str(cell) for cell in row] for row in np.stack(columns, axis=1).tolist()]
    for row in computed:
        row[7] = order.names[int(row[7])]
    assert printed == computed

    assert sequence[:12].tolist() == [7, 0, 3, 6, 1, 4, 2, 0, 5, 1, 1, 0]
    shard, row_in_shard = (column.tolist() for column in order.locate(n))
    assert shard == [0, 1, 1, 0, 0, 1, 2, 3, 3, 2, 2, 3, 0, 3, 3, 0, 0, 3, 2, 1, 1, 2, 2, 1]
    assert row_in_shard == [0, 0, 1, 1, 2, 2] * 4
    assert [order.lane_slots(1, lane)[0].tolist() for lane in range(2)] == [[0, 2], [3, 1]]
    assert order.host_positions(0, 3, 4, 0, 2)[0].tolist() == [[0, 3], [4, 6], [9, 10]]
    assert order.host_positions(0, 3, 4, 1, 2)[0].tolist() == [[1, 2], [5, 7], [8, 11]]
    assert order.lane_records_before(9).tolist() == [4, 5]


def test_scalars_are_welcome() -> None:
    order = Order(17, 2, 2, 3, (2, 1), (8, 2), ("code", "prose"))
    assert [int(x) for x in order.locate(13)] == [3, 0]
    assert [int(x) for x in order.sequence_at(13)] == [1, 0, 1]
    assert int(order.position_of(3, 0, 1)) == 13
    assert int(order.positions_of(1, 0, 1)) == 7
    assert int(order.component_at(13)) == 1


def test_validation_records_are_dealt_out() -> None:
    assert [validation_positions(7, host, 3).tolist() for host in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]


def test_the_laws_hold_at_scale() -> None:
    assert any("N=3599769600" in line for line in measure())
