"""Damage of any kind to any file is found before a value is used: the checkpoint before is, the damaged one is kept."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from schemas.errors import Refused, TokenmillError
from tests.trainer.checkpoint.tiny import assert_holds, files_of, fresh_copy, saved, state
from trainer.checkpoint import Damaged, Owned, Saver, newest_good, open_step
from trainer.checkpoint import records as records_
from trainer.checkpoint.arrays import Grid
from trainer.checkpoint.records import Commit, FileSum, Manifest, parse

OLD, NEW = 10, 20


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of two processes."""
    folder = tmp_path_factory.mktemp("pristine")
    for step in (OLD, NEW):
        saved(folder, step, state(step), {"step": step, "validation_loss": 1 / step}, processes=2)
    return folder


def step_folder(directory: Path, step: int = NEW) -> Path:
    return directory / f"step-{step:08d}"


# -- accidents ----------------------------------------------------------------------------------------------------


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def delete(path: Path, _: random.Random) -> None:
    path.unlink()


def append(path: Path, rng: random.Random) -> None:
    with open(path, "ab") as file:
        file.write(rng.randbytes(3))


def add_beside(path: Path, _: random.Random) -> None:
    (path.parent / f"{path.name}.more").write_bytes(b"")


def swap_for_older(path: Path, _: random.Random) -> None:
    """The file of the checkpoint before in its place: whole, but not of this save."""
    folder = path
    while folder.parent.name != "work":
        folder = folder.parent
    shutil.copy(folder.parent / f"step-{OLD:08d}" / path.relative_to(folder), path)


def folder_in_its_place(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


INJECTIONS: tuple[Callable[[Path, random.Random], None], ...] = (
    *(flip, flip, truncate, delete, append, add_beside, swap_for_older, folder_in_its_place),
)


def test_every_injection_is_found_and_the_checkpoint_before_is_used(pristine: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    names = [path.relative_to(step_folder(pristine)) for path in files_of(step_folder(pristine))]
    done = 0
    for name in names:
        for inject in INJECTIONS:
            if inject is swap_for_older and name.name == "zarr.json":
                continue  # the same in both
            directory = fresh_copy(pristine, tmp_path / "work")
            inject(step_folder(directory) / name, rng)
            found = newest_good(str(directory))
            what = f"{inject.__name__} {name}"
            assert found.checkpoint is not None, what
            assert found.checkpoint.step == OLD, what
            if inject is delete and name.name == "COMMIT.json":
                assert not found.quarantined  # without its marker it is no checkpoint
                continue
            (aside,) = found.quarantined
            assert aside.step == NEW, what
            assert aside.path == str(directory / f"quarantined-step-{NEW:08d}"), what
            assert Path(aside.path).is_dir(), what
            assert f"step-{NEW:08d}" in aside.reason, what
            assert_holds(found.checkpoint, state(OLD))
            done += 1
    assert done >= 100


def test_every_bit_of_a_marker_counts(pristine: Path) -> None:
    data = (step_folder(pristine) / "COMMIT.json").read_bytes()
    parse(data, "x", Commit)
    for index in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[index] ^= 1 << bit
            with pytest.raises(Damaged):
                parse(bytes(changed), "x", Commit)


def test_all_damaged(pristine: Path, tmp_path: Path) -> None:
    """Nothing is left to load, nothing is deleted; names that are taken are not taken twice."""
    directory = fresh_copy(pristine, tmp_path / "work")
    for step in (OLD, NEW):
        (step_folder(directory, step) / "COMMIT.json").write_text("{}")
    (directory / f"quarantined-step-{NEW:08d}").mkdir()
    found = newest_good(str(directory))
    assert found.checkpoint is None
    assert [each.step for each in found.quarantined] == [NEW, OLD]
    assert found.quarantined[0].path == str(directory / f"quarantined-step-{NEW:08d}-2")
    assert not newest_good(str(directory)).quarantined


def test_an_empty_or_absent_folder_has_none(tmp_path: Path) -> None:
    assert newest_good(str(tmp_path)).checkpoint is None
    assert newest_good(str(tmp_path / "absent")).checkpoint is None


def test_a_quarantined_step_can_be_saved_again(pristine: Path, tmp_path: Path) -> None:
    directory = fresh_copy(pristine, tmp_path / "work")
    delete(files_of(step_folder(directory))[-1], random.Random(0))
    newest_good(str(directory))
    saved(directory, NEW, state(99))
    assert_holds(open_step(str(directory), NEW), state(99))


# -- malice: all sums are right -----------------------------------------------------------------------------------


def forge(
    directory: Path,
    manifest: Callable[[dict[str, Any]], None] = lambda _: None,
    commit: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Change the newest checkpoint's records and make every sum fit again, as one who knows the format can."""
    folder = step_folder(directory)
    path = folder / "process-00001-of-00002.json"
    body = json.loads(path.read_bytes())["body"]
    manifest(body)
    for name, each in body["files"].items():
        data = folder / "process-00001-of-00002" / name
        if data.is_file():
            each.update(
                bytes=data.stat().st_size, sha256=records_.files.sha256_of(os.path.realpath(data), data.stat().st_size)
            )
    path.write_bytes(records_._render(records_.dump(body)))
    marker = json.loads((folder / "COMMIT.json").read_bytes())["body"]
    marker["manifests"][path.name] = {
        "bytes": path.stat().st_size,
        "sha256": records_.files.sha256_of(str(path), path.stat().st_size),
    }
    commit(marker)
    (folder / "COMMIT.json").write_bytes(records_._render(records_.dump(marker)))


def piece_of(body: dict[str, Any], name: str = "weights") -> dict[str, Any]:
    return next(piece for piece in body["pieces"] if piece["name"] == name)


def path_outside(body: dict[str, Any]) -> None:
    body["files"]["../../../outside"] = body["files"].pop("float32/c/0")


def absolute_path(body: dict[str, Any]) -> None:
    body["files"]["/etc/passwd"] = body["files"]["float32/c/0"]


def giant_array(body: dict[str, Any]) -> None:
    body["arrays"]["float32"] = 1 << 61


def giant_piece(body: dict[str, Any]) -> None:
    piece_of(body).update(global_shape=[1 << 61], shape=[1 << 61], offset=[0])


def giant_shape(body: dict[str, Any]) -> None:
    piece_of(body).update(global_shape=[1 << 61])


def overflowing_shape(body: dict[str, Any]) -> None:
    piece_of(body).update(global_shape=[1 << 32] * 2, shape=[1 << 32] * 2, offset=[0, 0])


def beyond_64_bits(body: dict[str, Any]) -> None:
    piece_of(body).update(start=1 << 64)


def negative(body: dict[str, Any]) -> None:
    piece_of(body).update(start=-1)


def other_dtype(body: dict[str, Any]) -> None:
    piece_of(body).update(dtype="object")


def dtype_as_path(body: dict[str, Any]) -> None:
    body["arrays"]["../x"] = body["arrays"].pop("float32")


def no_elements(body: dict[str, Any]) -> None:
    body["arrays"]["int8"] = 0


def twice(body: dict[str, Any]) -> None:
    body["pieces"].append(dict(piece_of(body)))


def lost(body: dict[str, Any]) -> None:
    body["pieces"].remove(piece_of(body))


def unknown_key(body: dict[str, Any]) -> None:
    body["pickle"] = "gASVCgAAAAAAAACMBnN5c3RlbZQu"


def wrong_type(body: dict[str, Any]) -> None:
    body["step"] = "20"


def other_process(body: dict[str, Any]) -> None:
    body["process"] = 0


def other_save(body: dict[str, Any]) -> None:
    body["save"] = "another"


MANIFESTS = (
    *(path_outside, absolute_path, giant_array, giant_piece, giant_shape, overflowing_shape, beyond_64_bits, negative),
    *(other_dtype, dtype_as_path, no_elements, twice, lost, unknown_key, wrong_type, other_process, other_save),
)


@pytest.mark.parametrize("change", MANIFESTS, ids=lambda change: change.__name__)
def test_a_manifest_that_no_save_writes_is_refused(pristine: Path, tmp_path: Path, change: Any) -> None:
    directory = fresh_copy(pristine, tmp_path / "work")
    forge(directory)
    open_step(str(directory), NEW)  # the forger's sums do fit
    forge(directory, change)
    with pytest.raises(Damaged) as damaged:
        open_step(str(directory), NEW)
    assert "sha256 is not" not in str(damaged.value)  # it is the content that was refused


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(processes=3),
        lambda body: body.update(processes=10**9),
        lambda body: body.update(step=OLD),
        lambda body: body.update(meta=[]),
        lambda body: body.update(save="other"),
        lambda body: body["manifests"].update({"../x.json": {"bytes": 1, "sha256": "0" * 64}}),
    ],
)
def test_a_marker_that_no_save_writes_is_refused(pristine: Path, tmp_path: Path, change: Any) -> None:
    directory = fresh_copy(pristine, tmp_path / "work")
    forge(directory, commit=change)
    with pytest.raises(Damaged) as damaged:
        open_step(str(directory), NEW)
    assert "sha256 is not" not in str(damaged.value)


def test_a_whole_manifest_that_the_marker_does_not_name(pristine: Path, tmp_path: Path) -> None:
    directory = fresh_copy(pristine, tmp_path / "work")
    marker = (step_folder(directory) / "COMMIT.json").read_bytes()
    forge(directory, lambda body: body["pieces"].reverse())
    open_step(str(directory), NEW)
    (step_folder(directory) / "COMMIT.json").write_bytes(marker)
    with pytest.raises(Damaged, match="not the manifest"):
        open_step(str(directory), NEW)


def test_links_are_not_followed(pristine: Path, tmp_path: Path) -> None:
    """A link to the very same bytes is refused, wherever it is."""
    for name in ("process-00001-of-00002/float32/c/0", "process-00001-of-00002", "COMMIT.json", ""):
        directory = fresh_copy(pristine, tmp_path / "work")
        path = step_folder(directory) / name
        shutil.rmtree(tmp_path / "outside", ignore_errors=True)
        (tmp_path / "outside").mkdir()
        path.rename(tmp_path / "outside" / "target")
        path.symlink_to(tmp_path / "outside" / "target")
        found = newest_good(str(directory))
        assert found.checkpoint is not None
        assert found.checkpoint.step == OLD, name
        assert "not a" in found.quarantined[0].reason
        assert (tmp_path / "outside" / "target").exists()


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"body":' * 5_000,
        b'{"body":{"version":NaN},"sha256":""}\n',
        b'{"body":' + b"9" * 10_000 + b',"sha256":""}\n',
        b"\xff\xfe",
        b"",
        b"null",
    ],
    ids=["deep", "deep objects", "NaN", "long number", "not UTF-8", "empty", "null"],
)
def test_json_made_to_hurt(pristine: Path, tmp_path: Path, text: bytes) -> None:
    directory = fresh_copy(pristine, tmp_path / "work")
    (step_folder(directory) / "COMMIT.json").write_bytes(text)
    with pytest.raises(Damaged, match=r"COMMIT\.json"):
        open_step(str(directory), NEW)


def test_giant_json_is_not_read(pristine: Path, tmp_path: Path) -> None:
    directory = fresh_copy(pristine, tmp_path / "work")
    os.truncate(step_folder(directory) / "COMMIT.json", 1 << 40)  # sparse
    with pytest.raises(Damaged, match="larger than"):
        open_step(str(directory), NEW)


def test_other_metadata_never_reaches_tensorstore(pristine: Path, tmp_path: Path) -> None:
    """zarr.json that names other codecs or sizes, with a sum that fits."""
    directory = fresh_copy(pristine, tmp_path / "work")
    path = step_folder(directory) / "process-00001-of-00002" / "float32" / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["shape"] = [1 << 60]
    path.write_text(json.dumps(metadata))
    forge(directory)
    with pytest.raises(Damaged, match="not the metadata that a save writes"):
        open_step(str(directory), NEW)


def test_a_chunk_that_cannot_be_decoded(pristine: Path, tmp_path: Path) -> None:
    """Bytes that only their sums vouch for: TensorStore's crc32c and codecs stop them; the error names the place."""
    directory = fresh_copy(pristine, tmp_path / "work")
    path = step_folder(directory) / "process-00001-of-00002" / "float32" / "c" / "0"
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))
    forge(directory)
    checkpoint = open_step(str(directory), NEW)
    with pytest.raises(TokenmillError, match="process-00001-of-00002"):
        checkpoint.read("weights")


@pytest.mark.parametrize("claimed", [0, 2 * 10**9, 2**32 - 1])
def test_a_chunk_that_claims_to_be_larger_than_it_can_be(pristine: Path, tmp_path: Path, claimed: int) -> None:
    """All sums are right, the crc32c too; only blosc's header lies. Nothing of the size it claims is made."""
    directory = fresh_copy(pristine, tmp_path / "work")
    path = step_folder(directory) / "process-00001-of-00002" / "float32" / "c" / "0"
    data = bytearray(path.read_bytes())
    begin, size = struct.unpack_from("<QQ", data, len(data) - 20)  # the shard's index: one chunk, then its crc32c
    struct.pack_into("<II", data, begin + 4, claimed, claimed)
    end = begin + size - 4
    struct.pack_into("<I", data, end, google_crc32c.value(bytes(data[begin:end])))
    path.write_bytes(data)
    forge(directory)
    checkpoint = open_step(str(directory), NEW)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TokenmillError, match="process-00001-of-00002"):
        checkpoint.read("weights")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_another_format_version_is_refused_not_put_aside(pristine: Path, tmp_path: Path) -> None:
    directory = fresh_copy(pristine, tmp_path / "work")
    forge(directory, commit=lambda body: body.update(version=2))
    with pytest.raises(Refused, match="format version 2"):
        newest_good(str(directory))
    assert step_folder(directory).exists()


def test_the_records_of_a_save_are_read_back_equal(tmp_path: Path) -> None:
    record = Manifest(
        save="s",
        step=1,
        process=0,
        processes=1,
        arrays={"int8": 3},
        pieces=[],
        files={name: FileSum(bytes=1, sha256="a" * 64) for name in Grid("int8", 3).names},
    )
    assert parse(records_.render(record), "x", Manifest) == record
    with Saver(str(tmp_path)) as saver:
        saver.save(1, [Owned.whole("ä/\u2028", state(1)["bias"])], {"é": "\u2028😀", "big": 10**30})
    assert open_step(str(tmp_path), 1).meta == {"é": "\u2028😀", "big": 10**30}
