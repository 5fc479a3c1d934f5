"""A view opened for reading: what its manifest says, its records as a `tf.data.Dataset`, and where a run stands."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loader.files import DirectFiles, OpenShards, ShardFiles
from loader.layout import Shard, order_of, shards_of
from loader.locate import MANIFEST, locate
from schemas import manifest, storage
from schemas.errors import Refused, TokenmillError
from schemas.manifest import ShardFile, ShardManifest, TokenizerInfo
from schemas.order import Order
from schemas.record import record_size

if TYPE_CHECKING:
    import tensorflow as tf  # type: ignore[import-untyped]

    from loader.stats import ComponentStatistics
    from loader.train_input import TrainReading
    from loader.validation_input import ValidationReading

FIELDS = ("tokens", "segment_ids", "positions", "loss_mask", "component")
STATE_VERSION = 1


class Shards:
    """A view: `Shards("runs/demo/shards/4096")`. Reads the manifest and, of a local view, the names in its folder.

    path: a view's folder or its manifest.json; a run directory with one view; a gs:// URL of a view.

    Raises:
        Refused: path is none of these.
        TokenmillError: the manifest is broken or contradicts itself, or the folder holds shards it does not name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder, self.manifest = _read(os.fspath(path))
        where = f"{self.folder}/{MANIFEST}"
        try:
            self.order: Order = order_of(self.manifest)
            shards = shards_of(self.manifest)
            self._check_sizes(shards)
        except TokenmillError as error:
            raise TokenmillError(f"{where}: {error}") from None
        self.files: tuple[ShardFile, ...] = tuple(shard.file for shard in shards)
        """All shards by number: train in the order's numbering, then validation by component."""
        self._refuse_strangers()

    # What the view holds

    @property
    def fingerprint(self) -> str:
        """The manifest's fingerprint: what the view was made from, and how."""
        return self.manifest.fingerprint

    @property
    def sequence_length(self) -> int:
        """L; records hold L + 1 tokens."""
        return self.manifest.sequence_length

    @property
    def tokenizer(self) -> TokenizerInfo:
        """The tokenizer's fingerprint, size and special ids."""
        return self.manifest.tokenizer

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components; a batch's `component` counts in this order."""
        return self.order.names

    @property
    def records(self) -> int:
        """Records of the train split: the positions n of an epoch."""
        return self.order.records

    @property
    def validation(self) -> dict[str, int]:
        """Held-out records of each component that has any."""
        return {name: split.records for name, split in self.manifest.splits.validation.items() if split.records}

    # Reading

    def dataset(
        self,
        global_batch: int,
        host: int = 0,
        hosts: int = 1,
        start: int = 0,
        split: str = "train",
        component: str | None = None,
        epochs: int | None = None,
        document_masking: bool = True,
        fields: Sequence[str] = FIELDS,
        cache: ShardFiles | None = None,
    ) -> tf.data.Dataset:
        """What one host reads, as a tf.data.Dataset of dicts of batches of b = global_batch / hosts records:

            tokens, segment_ids, positions: int32 [b, L+1];  loss_mask: bool [b, L+1];  component: int32 [b]

        or those of them in `fields`. `loader.fields` shows what they hold, with and without `document_masking`.

        train: global batch i is the positions start + [i·B, (i+1)·B) of the order, across epochs, whatever the number
        of hosts; a host's part is in ascending n. It ends with epoch `epochs`, counted from position 0, or never. The
        last batch is filled up with records of padding: their component is -1, their loss_mask False.

        validation: every record of `component` once; host h has every hosts-th; the last batch filled up likewise, so
        that all hosts have the same number of batches.

        cache: whence to read the shards instead of the view's own folder; of `self.files` by number.

        While reading, tf.errors.InvalidArgumentError (or NotFoundError) names a shard, and a record in it, that is not
        what was written; no record is passed over, and no stream ends early.

        Raises:
            Refused: hosts does not divide lanes, batch and start, or another argument makes no sense.
            TokenmillError: a shard of this host is missing from the view's folder.
        """
        if global_batch < 1 or start < 0:
            raise Refused(f"a global batch of {global_batch} from position {start}: give 1 or more, from 0 or later")
        if not set(fields) <= set(FIELDS) or not fields:
            raise Refused(f"fields {tuple(fields)}: choose one or more of {', '.join(FIELDS)}")
        from loader.batches import batches  # noqa: PLC0415
        from loader.decoding import Format  # noqa: PLC0415
        from loader.train_input import train_blocks  # noqa: PLC0415
        from loader.validation_input import ValidationReading, validation_blocks  # noqa: PLC0415

        reading: TrainReading | ValidationReading
        if split == "train":
            if component is not None:
                raise Refused(f"component {component!r}: the train split is read whole; components are of validation")
            reading = self._train(global_batch, host, hosts, start, epochs)
            total = None if epochs is None else epochs * self.records - start
        elif split == "validation":
            if start or epochs not in (None, 1):
                raise Refused("validation is read once from its beginning: leave start and epochs out")
            reading = self._validation(global_batch, host, hosts, component)
            total = sum(reading.rows)
        else:
            raise Refused(f"split {split!r}: there are train and validation")
        files = cache or DirectFiles(self.folder, [file.path for file in self.files])
        if cache is None:
            self._refuse_missing(reading)
        files.plan(int(shard) for shard in reading.shards())
        opened = OpenShards(files, self.files, self._record_size, self.manifest.token_dtype, self.folder)
        form, batch = Format.of(self.manifest), global_batch // hosts
        blocks = (
            validation_blocks(reading, opened, form, batch)
            if isinstance(reading, ValidationReading)
            else train_blocks(reading, opened, form, batch)
        )
        count = None if total is None else -(-total // global_batch)
        return batches(blocks, reading, form, batch, count, tuple(fields), document_masking)

    def statistics(self, samples: int = 1000, seed: int = 0) -> tuple[ComponentStatistics, ...]:
        """Tokens, distinct tokens, documents and padding of sampled records, up to `samples` of a component and split.

        The same for the same seed; only the sampled records are read. See `loader.stats`.

        Raises:
            Refused: the view is remote, or samples is less than 1.
            TokenmillError: a sampled record is damaged.
        """
        from loader.stats import statistics  # noqa: PLC0415
        from loader.view import view_of  # noqa: PLC0415

        if "://" in self.folder:
            raise Refused(f"{self.folder}: statistics are of local views; copy the view to this machine first")
        return statistics(view_of(Path(self.folder), self.manifest), samples, seed)

    # Where a run stands

    def state(self, n: int) -> dict[str, Any]:
        """The whole state of a run that has consumed the positions before n, as JSON values."""
        if n < 0:
            raise Refused(f"there is no position {n}; positions are counted from 0")
        return {"format_version": STATE_VERSION, **self._identity(), "n": int(n)}

    def resume(self, state: Mapping[str, Any]) -> int:
        """The position n to start from, after checks that the state is of this view.

        Raises:
            Refused: it is of another view, seed, order or version, or no state at all; names both values.
        """
        if set(state) != {"format_version", *self._identity(), "n"} or not isinstance(state["n"], int):
            raise Refused(f"this is no state of a loader: {dict(state)!r}; give what `state` returned")
        for key, here in {"format_version": STATE_VERSION, **self._identity()}.items():
            if state[key] != here:
                raise Refused(
                    f"the state's {key} is {state[key]}, that of {self.folder} is {here}: a position means nothing in "
                    f"another order; open the view the run was started on, or start anew from 0"
                )
        return int(self.state(state["n"])["n"])

    def _identity(self) -> dict[str, Any]:
        order = self.manifest.order
        return {"fingerprint": self.fingerprint, "order_version": order.version, "seed": order.seed}

    # Checks

    @property
    def _record_size(self) -> int:
        return record_size(self.sequence_length, self.manifest.token_dtype)

    def _check_sizes(self, shards: Sequence[Shard]) -> None:
        size = self._record_size
        for shard in shards:
            file = shard.file
            if not 0 < file.bytes == file.records * size:
                raise TokenmillError(
                    f"states {file.bytes} bytes for {file.path}; {file.records} records of {size} bytes belong there"
                )

    def _train(self, global_batch: int, host: int, hosts: int, start: int, epochs: int | None) -> TrainReading:
        from loader.train_input import TrainReading  # noqa: PLC0415

        self.order.host_positions(start, 0, global_batch, host, hosts)  # refuses what does not divide
        if epochs is not None and not start <= epochs * self.records:
            raise Refused(f"{epochs} epochs end at position {epochs * self.records}, before the start at {start}")
        return TrainReading(self.order, start, host, hosts, epochs, self._record_size)

    def _validation(self, global_batch: int, host: int, hosts: int, component: str | None) -> ValidationReading:
        from loader.validation_input import ValidationReading  # noqa: PLC0415

        if component is None or component not in self.validation:
            raise Refused(
                f"component {component!r}: validation is read by component; there are held-out records of "
                f"{', '.join(self.validation) or 'none'}"
            )
        if hosts < 1 or global_batch % hosts:
            possible = [h for h in range(1, global_batch + 1) if global_batch % h == 0]
            raise Refused(f"{hosts} hosts cannot share a global batch of {global_batch} evenly; possible: {possible}")
        if not 0 <= host < hosts:
            raise Refused(f"there is no host {host} of {hosts}; hosts are counted from 0 to {hosts - 1}")
        files = self.manifest.splits.validation[component].files
        first = self.files.index(files[0])
        number = self.components.index(component)
        return ValidationReading(number, [file.records for file in files], first, host, hosts)

    def _refuse_strangers(self) -> None:
        if "://" in self.folder:
            return
        known = {file.path for file in self.files}
        strangers = sorted(name for name in self._names() - known if name.endswith(".tfrecord"))
        if strangers:
            raise TokenmillError(
                f"{self.folder}: holds {strangers[0]} and {len(strangers) - 1} more shards that the manifest does not "
                f"name, so they are of another run; move them away, or open the view they belong to"
            )

    def _refuse_missing(self, reading: TrainReading | ValidationReading) -> None:
        """Refuse before the first batch what would fail at the latest within an epoch."""
        if "://" in self.folder:
            return
        there = self._names()
        wanted = (self.files[number].path for number in reading.touched.tolist())
        missing = [name for name in wanted if name not in there]
        if missing:
            raise TokenmillError(
                f"{self.folder}/{missing[0]}: is missing, and {len(missing) - 1} more shards that this host reads; "
                f"restore them from a copy, or make the view again with --replace-from shard"
            )

    def _names(self) -> set[str]:
        with os.scandir(self.folder) as entries:
            return {entry.name for entry in entries}


def _read(path: str) -> tuple[str, ShardManifest]:
    """(folder, manifest) of a view."""
    if "://" not in path:
        here = Path(path).parent if Path(path).name == MANIFEST else Path(path)
        if not (here / MANIFEST).is_file():
            run = locate(path).folder  # refuses everything else
            views = sorted(run.glob(f"shards/*/{MANIFEST}"))
            if len(views) != 1:
                there = ", ".join(str(view.parent) for view in views) or "none"
                raise Refused(f"{path}: is a run; give one of its views: {there}")
            here = views[0].parent
        return str(here), manifest.load(ShardManifest, here / MANIFEST)
    folder = path.removesuffix(MANIFEST).rstrip("/")
    try:
        data = storage.read_bytes(f"{folder}/{MANIFEST}")
    except FileNotFoundError:
        raise TokenmillError(f"{folder}/{MANIFEST}: cannot be read: there is no such object") from None
    return folder, manifest.parse(ShardManifest, data, f"{folder}/{MANIFEST}")
