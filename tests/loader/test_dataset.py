"""What batches hold: fields beside a plain reimplementation, the last batch, validation, and what reading leaves."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader import Shards
from schemas.errors import Refused
from tests.loader.views import END, PAD, write_view

tf = pytest.importorskip("tensorflow")


def plain(tokens: list[int], document_masking: bool) -> tuple[list[int], list[int], list[bool]]:
    """segment_ids, positions and loss_mask of one record, token by token, as the documentation says it."""
    segments, positions, mask = [], [], []
    segment, position = 1, 0
    for at, token in enumerate(tokens):
        new = document_masking and at > 0 and tokens[at - 1] == END
        if new:
            segment, position = segment + 1, 0
        real = token != PAD
        segments.append(segment if real else 0)
        positions.append(position if real or not document_masking else 0)
        mask.append(real and at > 0 and not new)
        position += 1
    return segments, positions, mask


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shards, np.ndarray]:
    folder = tmp_path_factory.mktemp("dataset") / "view"
    tokens = write_view(folder)
    return Shards(folder), tokens


@given(st.data(), st.booleans())
@settings(max_examples=30)
def test_fields_follow_from_the_tokens(data: st.DataObject, masking: bool) -> None:
    from loader.decoding import Format  # noqa: PLC0415
    from loader.fields import segments  # noqa: PLC0415

    length = data.draw(st.integers(1, 12))
    record = st.tuples(st.lists(st.sampled_from([1, END, 7, 8]), max_size=length), st.just(length)).map(
        lambda drawn: drawn[0] + [PAD] * (drawn[1] - len(drawn[0]))
    )
    batch = data.draw(st.lists(record, min_size=1, max_size=5))
    form = Format(length, "uint16", END, PAD, b"", b"")
    found = segments(form, tf.constant(batch), masking)
    want = [plain(tokens, masking) for tokens in batch]
    for at, name in enumerate(("segment_ids", "positions", "loss_mask")):
        assert found[name].numpy().tolist() == [row[at] for row in want], name


@pytest.mark.parametrize("masking", [True, False])
def test_batches_of_a_real_run(small_run: Path, masking: bool) -> None:
    shards = Shards(small_run / "shards/64")
    tokenizer = shards.tokenizer
    assert (tokenizer.end, tokenizer.pad) == (END, PAD)
    seen: set[int] = set()
    for batch in shards.dataset(64, epochs=1, document_masking=masking).take(20).as_numpy_iterator():
        for row in range(0, 64, 7):
            want = plain(batch["tokens"][row].tolist(), masking)
            assert [batch[key][row].tolist() for key in ("segment_ids", "positions", "loss_mask")] == list(want)
        seen |= set(batch["component"].tolist())
    assert seen == {0, 1}


def test_the_element_spec_is_static_and_fields_choose(view: tuple[Shards, np.ndarray]) -> None:
    shards, _ = view
    spec = shards.dataset(8, 1, 2).element_spec
    ints = tf.TensorSpec([4, 13], tf.int32)
    assert spec == {
        "tokens": ints,
        "segment_ids": ints,
        "positions": ints,
        "loss_mask": tf.TensorSpec([4, 13], tf.bool),
        "component": tf.TensorSpec([4], tf.int32),
    }
    assert list(shards.dataset(8, fields=("component", "tokens")).element_spec) == ["component", "tokens"]


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_components_and_both_widths_of_tokens(tmp_path: Path, dtype: str) -> None:
    tokens = write_view(tmp_path / "view", lanes=4, groups=2, rows=6, weights=(1, 2), dtype=dtype)
    shards = Shards(tmp_path / "view")
    for start in (0, 2, 50):
        for batch in shards.dataset(6, 1, 2, start, epochs=3).as_numpy_iterator():
            number = batch["tokens"][:, 0] - 4
            real = batch["component"] >= 0
            shard, row = np.divmod(number[real], shards.order.rows)
            assert np.array_equal(shards.order.sequence_of_slot(shard, row)[0], batch["component"][real])
            assert np.array_equal(tokens[shard, row], batch["tokens"][real])


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_last_batch_is_filled_up_with_padding(view: tuple[Shards, np.ndarray], hosts: int) -> None:
    shards, _ = view  # 192 records
    for host in range(hosts):
        found = list(shards.dataset(20, host, hosts, start=4, epochs=1).as_numpy_iterator())
        assert len(found) == 10
        last = found[-1]
        real = 8 // hosts
        assert (last["component"][:real] >= 0).all()
        assert (last["component"][real:] == -1).all()
        assert (last["tokens"][real:] == PAD).all()
        assert not last["loss_mask"][real:].any()
        assert not last["segment_ids"][real:].any()


def test_epochs_end_and_go_on(view: tuple[Shards, np.ndarray]) -> None:
    shards, _ = view
    assert sum(1 for _ in shards.dataset(64, epochs=2)) == 6
    assert sum(1 for _ in shards.dataset(64, epochs=2, start=2 * shards.records)) == 0
    assert sum(1 for _ in shards.dataset(64).take(20)) == 20


@pytest.mark.parametrize(("hosts", "batch"), [(1, 2), (1, 7), (3, 3), (4, 8), (2, 10)])
def test_validation_is_read_once(view: tuple[Shards, np.ndarray], hosts: int, batch: int) -> None:
    shards, _ = view  # 7 records in two files
    parts = [
        list(shards.dataset(batch, host, hosts, split="validation", component="c0").as_numpy_iterator())
        for host in range(hosts)
    ]
    assert {len(part) for part in parts} == {-(-7 // batch)}
    for step in range(len(parts[0])):
        together = np.stack([part[step]["tokens"][:, 0] for part in parts], axis=1).reshape(-1)
        want = 5 + np.arange(step * batch, min((step + 1) * batch, 7))
        assert np.array_equal(together[: len(want)], want)
        assert (together[len(want) :] == PAD).all()
        component = np.stack([part[step]["component"] for part in parts], axis=1).reshape(-1)
        assert component.tolist() == [0] * len(want) + [-1] * (batch - len(want))


def test_a_dataset_can_be_read_twice_and_mapped(view: tuple[Shards, np.ndarray]) -> None:
    shards, _ = view
    dataset = shards.dataset(16, epochs=1).map(
        lambda batch: (batch["tokens"][:, :-1], batch["tokens"][:, 1:], batch["loss_mask"][:, 1:])
    )
    first, second = ([part[1].numpy() for part in dataset] for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"hosts": 3}, "possible numbers of hosts: 1, 2, 4, 8"),
        ({"global_batch": 12, "hosts": 8}, "possible numbers of hosts: 1, 2, 4"),
        ({"hosts": 4, "start": 6}, "the nearest before it is 4"),
        ({"host": 2, "hosts": 2}, "no host 2"),
        ({"start": -1}, "0 or later"),
        ({"global_batch": 0}, "1 or more"),
        ({"start": 193, "epochs": 1}, "192"),
        ({"split": "test"}, "train and validation"),
        ({"split": "validation"}, "c0"),
        ({"split": "validation", "component": "c1"}, "c0"),
        ({"split": "validation", "component": "c0", "start": 8}, "leave start"),
        ({"split": "validation", "component": "c0", "hosts": 3}, "[1, 2, 4, 8, 16]"),
        ({"component": "c0"}, "read whole"),
        ({"fields": ("tokens", "labels")}, "segment_ids"),
    ],
)
def test_what_does_not_fit_is_refused(view: tuple[Shards, np.ndarray], given: dict[str, object], named: str) -> None:
    with pytest.raises(Refused) as refused:
        view[0].dataset(**{"global_batch": 16, **given})  # type: ignore[arg-type]
    assert named in str(refused.value)


def test_an_iterator_outlives_its_dataset(view: tuple[Shards, np.ndarray]) -> None:
    """Python is called once a group, long after the dataset may have been collected."""
    iterator = iter(Shards(view[0].folder).dataset(16, epochs=3))
    gc.collect()
    assert sum(1 for _ in iterator) == 36


def resident_bytes() -> int:
    """Resident size of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_does_not_grow_with_what_was_read(view: tuple[Shards, np.ndarray]) -> None:
    iterator = iter(view[0].dataset(64))  # 3 batches an epoch
    for _ in range(3 * 50):
        next(iterator)
    before = resident_bytes()
    for _ in range(3 * 150):
        next(iterator)
    assert resident_bytes() - before < 10e6


def threads_and_files(folder: str) -> tuple[int, int]:
    open_files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return len(os.listdir("/proc/self/task")), sum(path.startswith(folder) for path in open_files)


def test_closing_early_leaves_no_thread_and_no_file(view: tuple[Shards, np.ndarray]) -> None:
    shards, _ = view
    next(iter(shards.dataset(8)))
    gc.collect()
    time.sleep(0.2)
    before, _ = threads_and_files(shards.folder)
    for start in range(0, 64, 8):
        iterator = iter(shards.dataset(8, start=start))
        next(iterator)
        del iterator
    gc.collect()
    for _ in range(50):
        threads, files = threads_and_files(shards.folder)
        if threads <= before and not files:
            break
        time.sleep(0.1)
    assert threads <= before
    assert files == 0
