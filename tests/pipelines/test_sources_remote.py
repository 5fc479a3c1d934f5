"""Sources on a filesystem Beam knows: the same listing, units and documents as the same files local."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystem import CompressionTypes, FileMetadata, FileSystem

from pipelines.sources import SourceChanged, SourceUnreachable, list_entries, plan_slices, read_slices
from schemas.config import Source
from schemas.errors import Refused


class TreeFileSystem(FileSystem):
    """An object store over a local folder: tree://bucket/name is folder/bucket/name."""

    folder: ClassVar[Path]
    listings: ClassVar[int] = 0

    @classmethod
    def scheme(cls) -> str:
        return "tree"

    def _local(self, path: str) -> Path:
        return self.folder / path.removeprefix("tree://")

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        type(self).listings += 1
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                url = f"tree://{path.relative_to(self.folder)}"
                if url.startswith(dir_or_prefix):
                    yield FileMetadata(url, path.stat().st_size)

    def open(self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO) -> Any:
        assert compression_type == CompressionTypes.UNCOMPRESSED
        return open(self._local(path), "rb")

    def exists(self, path: str) -> bool:
        return self._local(path).is_file()

    def size(self, path: str) -> int:
        return self._local(path).stat().st_size

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, self.size(path))

    def has_dirs(self) -> bool:
        return False

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath, *paths])

    def split(self, path: str) -> tuple[str, str]:
        return os.path.split(path)

    def _unsupported(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    mkdirs = create = copy = rename = last_updated = checksum = delete = _unsupported


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    TreeFileSystem.folder = tmp_path
    bucket = tmp_path / "bucket"
    (bucket / "code/sub").mkdir(parents=True)
    (bucket / "code/a.py").write_bytes(b"a = 1\n")
    (bucket / "code/sub/b.py").write_bytes(b"b = 1\n")
    (bucket / "code/sub/c.txt").write_bytes(b"c\n")
    lines = b"".join(json.dumps({"text": f"row {index}"}).encode() + b"\n" for index in range(300))
    (bucket / "part-1.jsonl").write_bytes(lines)
    (bucket / "part-2.jsonl.gz").write_bytes(gzip.compress(lines))
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(500)]}), bucket / "t.parquet", row_group_size=90)
    with tarfile.open(bucket / "x.tar", "w") as tar:
        for name in ("code/a.py", "code/sub/b.py"):
            info = tarfile.TarInfo(name)
            info.size = 6
            tar.addfile(info, io.BytesIO(b"a = 1\n"))
    return bucket


@pytest.mark.parametrize(
    "about",
    [
        {"path": "code", "format": "files", "include": ["**/*.py"]},
        {"path": "code/**/*.py", "format": "files"},
        {"path": "part-*.jsonl*", "format": "jsonl"},
        {"path": "part-1.jsonl", "format": "jsonl"},
        {"path": "", "format": "jsonl"},
        {"path": "t.parquet", "format": "parquet"},
        {"path": "*.tar", "format": "tar"},
    ],
)
def test_remote_and_local_agree(bucket: Path, about: dict[str, Any]) -> None:
    def everything(prefix: str) -> tuple[Any, ...]:
        source = Source.model_validate({**about, "path": prefix + about["path"]})
        root, entries, rejects = list_entries(source)
        units = plan_slices(source, root, entries, 1024)
        return entries, rejects, units, [list(read_slices(source, root, unit)) for unit in units]

    local = everything(f"{bucket}/")
    TreeFileSystem.listings = 0
    assert everything("tree://bucket/") == local
    assert local[0] and TreeFileSystem.listings <= 1


def test_what_is_not_there_is_refused(bucket: Path) -> None:
    for path in ("tree://bucket/absent", "tree://bucket/absent-*.jsonl", "unknown://bucket/x.jsonl"):
        with pytest.raises(Refused, match=path.replace("*", r"\*")):
            list_entries(Source(path=path, format="jsonl"))


def test_failures_are_named_and_raised(bucket: Path) -> None:
    source = Source(path="tree://bucket/part-1.jsonl", format="jsonl")
    root, entries, _ = list_entries(source)
    (unit,) = plan_slices(source, root, entries, 1 << 20)
    os.truncate(bucket / "part-1.jsonl", 50)
    with pytest.raises(SourceChanged, match=r"part-1\.jsonl"):
        list(read_slices(source, root, unit))
    (bucket / "part-1.jsonl").unlink()
    with pytest.raises(SourceUnreachable, match=r"tree://bucket/part-1\.jsonl"):
        list(read_slices(source, root, unit))
