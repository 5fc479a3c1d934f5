"""The JSON files of a checkpoint and the names around them.

DIR/step-00001000/process-00000-of-00002/...   a process's arrays (trainer.checkpoint.arrays)
                 /process-00000-of-00002.json  Manifest: its pieces, and the sha256 of all its files
                 /COMMIT.json                  Commit: the sha256 of all manifests; without it nothing counts

A file is `{"body": ..., "sha256": ...}`: the sha256 is that of the body's text, and the whole has one spelling only, so
that no changed byte goes unseen.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import Refused
from trainer.checkpoint import files

COMMIT = "COMMIT.json"
QUARANTINED, ABANDONED = "quarantined-", "abandoned-"  # before a step's folder that no longer counts
VERSION: Literal[1] = 1
COMMIT_LIMIT = 64 << 20  # bytes; a loop's meta is a few kB, its process list 100 bytes a process
MANIFEST_LIMIT = 256 << 20  # bytes; about 300 a piece and 120 a file
_STEP = re.compile(r"step-(\d{8,18})")
_NAME = r"^[^\x00-\x1f]{1,1000}$"
_SHA256 = r"^[0-9a-f]{64}$"

Size = Annotated[int, Field(ge=0, le=1 << 62)]  # such numbers and their sums fit 64 bits

Record = TypeVar("Record", "Commit", "Manifest")


class Damaged(Exception):
    """A checkpoint is not what a save wrote. The message names the file."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FileSum(_Strict):
    """Size in bytes and sha256 in hex of a file."""

    bytes: Size
    sha256: str = Field(pattern=_SHA256)


class Piece(_Strict):
    """Where a slice of a global array is: `start` is its first element in the process's flat array of its dtype.

    The slice begins at `offset` and has `shape`; its elements lie in row-major order.
    """

    name: str = Field(pattern=_NAME)
    dtype: str
    global_shape: list[Size] = Field(max_length=32)
    offset: list[Size] = Field(max_length=32)
    shape: list[Size] = Field(max_length=32)
    start: Size


class Manifest(_Strict):
    """What one process wrote in one save.

    save: equal in all processes of a save, and different for every save.
    arrays: elements of the flat array of each dtype.
    files: by path below the process's folder.
    """

    kind: Literal["tokenmill checkpoint process"] = "tokenmill checkpoint process"
    version: Literal[1] = 1
    save: str = Field(pattern=_NAME)
    step: Size
    process: Size
    processes: int = Field(ge=1)
    arrays: dict[str, Size]
    pieces: list[Piece]
    files: dict[str, FileSum]


class Commit(_Strict):
    """What makes a checkpoint one: written last, by process 0. `meta` is the caller's."""

    kind: Literal["tokenmill checkpoint"] = "tokenmill checkpoint"
    version: Literal[1] = 1
    save: str = Field(pattern=_NAME)
    step: Size
    processes: int = Field(ge=1, le=99_999)
    manifests: dict[str, FileSum]
    meta: dict[str, Any]


def step_name(step: int) -> str:
    """The folder of a step."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step of a folder's name; None when it is not the folder of a step."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match and name == step_name(int(match[1])) else None


def process_name(process: int, processes: int) -> str:
    """The folder of a process's arrays; its manifest has the same name and ends in .json."""
    return f"process-{process:05d}-of-{processes:05d}"


def dump(value: Any) -> str:
    """JSON in the one spelling that records have. Raises ValueError or TypeError where JSON has no word for it."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"), ensure_ascii=True)


def render(record: Commit | Manifest) -> bytes:
    """The bytes of a record's file."""
    return _render(dump(record.model_dump()))


def _render(body: str) -> bytes:
    return f'{{"body":{body},"sha256":"{hashlib.sha256(body.encode()).hexdigest()}"}}\n'.encode()


def parse(data: bytes, path: str, model: type[Record]) -> Record:
    """A record from its file's bytes.

    Raises:
        Damaged: the bytes are not what a save wrote.
        Refused: they are whole, but of a format this version cannot read.
    """
    try:
        found = json.loads(data, parse_constant=_no_constant)
        body = found["body"]
        whole = _render(dump(body)) == data
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Damaged(f"{path}: not a checkpoint's JSON") from None
    if not whole:
        raise Damaged(f"{path}: its sha256 is not that of its content")
    if isinstance(body, dict) and body.get("version") != VERSION:
        raise Refused(f"{path}: format version {body.get('version')!r}; this program reads version {VERSION}")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Damaged(f"{path}: {where}: {first['msg']}") from None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def read(path: str, model: type[Record], limit: int) -> tuple[Record, FileSum]:
    """A record and its file's sum.

    Raises:
        Damaged: it is absent, unreadable, too large or not what a save wrote.
        Refused: its format version is another.
    """
    try:
        data = files.read_small(path, limit)
    except files.NotPlain as error:
        raise Damaged(str(error)) from None
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror or error}") from None
    return parse(data, path, model), FileSum(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
