"""The dedup stage: which steps run, how many ranges they need, when clusters have converged, and the manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from pipelines import stages
from pipelines.dedup.inputs import EarlierUnits, Inputs
from pipelines.dedup.records import BAND, EDGE, count_records, load, member
from pipelines.dedup.steps import CHANGED, CLUSTER_RANGES, LARGE, Steps, size_ranges
from pipelines.earlier import Earlier
from pipelines.jobs import Each, Run, run_steps
from pipelines.plan import read_index
from pipelines.stages import Context, Receipt
from schemas import manifest, storage
from schemas.config import Config
from schemas.errors import TokenmillError
from schemas.manifest import StageManifest

FORMAT = 1
SMALL_EDGES = 20_000_000  # at most this many edges are clustered on one worker: 320 MB
MAX_ROUNDS = 60
LARGE_CLUSTER = 20  # smaller clusters never raise the alarm
LEAST_SHARE = 1e-4  # of all documents: smaller clusters are not told of, so the driver hears of ten thousand at most
_NOT_IN_FINGERPRINT = {"max_cluster_share", "max_source_share", "against"}  # paths are no content


def fingerprint(config: Config, documents: dict[str, str], earlier: Sequence[Earlier]) -> str:
    """Identifies the drops: the documents' fingerprints, the dedup settings, the sources' priorities, earlier runs."""
    priorities = {name: [source.priority for source in c.sources] for name, c in config.components.items()}
    return manifest.fingerprint(
        {
            "stage": "dedup",
            "format": FORMAT,
            "documents": list(documents.items()),
            "config": config.dedup.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT),
            "against": [asdict(run) for run in earlier],
            "priorities": priorities,
            "versions": stages.versions("pyarrow", "datasketch"),
        }
    )


def run(context: Context) -> None:
    """Find and settle all duplicates and write each component's manifest.

    Raises:
        TokenmillError: an input is not what its manifest says, or the clusters do not converge.
    """
    config, plan = context.config, context.plan
    documents = {name: stages.check_files(context.run, "documents", name) for name in plan.by_component}
    expected = fingerprint(config, {name: whole.fingerprint for name, whole in documents.items()}, plan.earlier)
    if all(stages.is_done(context.run, "dedup", name, expected) for name in documents):
        return
    folder = stages.work_folder("dedup", expected)
    units = len(plan.units)
    context.say("stage", name="dedup", tasks=units, folders=[folder])
    inputs = _inputs(context)
    own = sum(whole.counts["kept"] for whole in documents.values())
    kept = own + sum(run.documents for run in plan.earlier)
    small = kept < stages.SMALL_DOCUMENTS
    steps = Steps(
        config.dedup,
        inputs,
        folder,
        size_ranges(kept, config.dedup.bands * BAND.itemsize),
        config.shard.shuffle,
        max(LARGE_CLUSTER, int(min(config.dedup.max_cluster_share, LEAST_SHARE) * own)),
    )
    if stages.unfinished(context.run, folder, range(units)):
        if config.dedup.enabled:
            _deduplicate(context, steps, small)
        else:
            run_steps(context.run, [Each("drops", range(units), partial(_no_drops, steps))], context.options, small)
    _finish(context, expected, documents, steps)


def _inputs(context: Context) -> Inputs:
    """The run's units and those of earlier runs, after a look that the latter's files are there, and are as planned."""
    directories = context.config.dedup.earlier()
    first = len(context.plan.units)
    earlier: list[EarlierUnits] = []
    for run in context.plan.earlier:
        for folder, component in run.manifests:
            found = stages.check_files(Run(directories[run.name], ""), folder, component)
            if found.fingerprint != run.fingerprints[f"{folder}/{component}"]:
                raise TokenmillError(
                    f"dedup.against: {directories[run.name]} was made again since this run began; start this run again"
                )
        earlier.append(EarlierUnits(run.name, directories[run.name], first, run.units))
        first += run.units
    components = context.config.components.items()
    priorities = {name: tuple(source.priority for source in component.sources) for name, component in components}
    return Inputs(len(context.plan.units), priorities, tuple(earlier))


def _no_drops(steps: Steps, run: stages.Run, task: int) -> None:
    steps.receive_final(run, task, [])


def _deduplicate(context: Context, steps: Steps, small: bool) -> None:
    run_steps(context.run, steps.find(), context.options, small)
    edges = count_records(context.run, f"{steps.folder}/verified", EDGE)
    if edges <= SMALL_EDGES:
        before: list[Each] = [Each("clusters", [0], steps.clusters_at_once)]
        label_files = 1
    else:
        last = _converge(context, steps, small)
        before = [Each("labels", range(steps.ranges), partial(steps.save_star_labels, last))]
        label_files = steps.ranges
    # Members are at most both ends of every edge, and at most all documents.
    ranges = size_ranges(2 * edges, member(context.config.dedup.permutations).itemsize)
    context.run.commit_bytes(context.run.work(steps.folder, CLUSTER_RANGES), str(ranges).encode())
    run_steps(context.run, [*before, *steps.decide(label_files, ranges)], context.options, small)


def _converge(context: Context, steps: Steps, small: bool) -> str:
    """Run star rounds until no edge changes; returns the name of the last step."""
    before, sources = "verified", steps.inputs.units
    for number in range(MAX_ROUNDS):
        run_steps(context.run, steps.rounds(sources, before, number), context.options, small)
        before, sources = f"small-{number:03d}", steps.ranges
        names = storage.names_in(context.run.work(steps.folder, before))
        if not any(name.startswith(CHANGED) for name in names):
            return before
    raise TokenmillError(f"dedup: the clusters did not converge in {MAX_ROUNDS} rounds; raise dedup.threshold")


def _finish(context: Context, expected: str, documents: dict[str, StageManifest], steps: Steps) -> None:
    """Write the manifests, with alarms where a source or a cluster takes more than its share."""
    clusters = _cluster_alarms(context, steps, sum(inputs.counts["kept"] for inputs in documents.values()))
    for name, tasks in context.plan.by_component.items():
        receipts = stages.read_receipts(context.run, steps.folder, tasks)
        whole = StageManifest(
            stage="dedup",
            component=name,
            fingerprint=expected,
            inputs={other: inputs.fingerprint for other, inputs in documents.items()},
            versions=stages.versions("pyarrow", "datasketch"),
            counts=stages.total(receipt.unit.counts for receipt in receipts),
            files=tuple(file for receipt in receipts for file in receipt.files),
            units=tuple(receipt.unit for receipt in receipts),
            alarms=(*_source_alarms(context, name, receipts, documents[name]), *clusters),
        )
        stages.write_manifest(context.run, whole, "dedup", name)


def _source_alarms(context: Context, name: str, receipts: list[Receipt], documents: StageManifest) -> list[str]:
    config = context.config
    seen: dict[int, int] = {}
    lost: dict[int, int] = {}
    tasks = context.plan.by_component[name]
    for task, receipt, unit in zip(tasks, receipts, documents.units, strict=True):
        source = context.plan.units[task].source
        seen[source] = seen.get(source, 0) + unit.counts.get("kept", 0)
        lost[source] = lost.get(source, 0) + sum(receipt.unit.counts.values())
    return [
        f"components.{name}.sources.{source}: {lost[source]} of {seen[source]} documents are duplicates, "
        f"more than dedup.max_source_share = {config.dedup.max_source_share}"
        for source in sorted(seen)
        if lost[source] > config.dedup.max_source_share * seen[source]
    ]


def _cluster_alarms(context: Context, steps: Steps, documents: int) -> list[str]:
    """Alarms for clusters whose drops are more than their share of all documents."""
    alarms: list[str] = []
    share = context.config.dedup.max_cluster_share
    folder = f"{steps.folder}/{LARGE}"
    for name in sorted(storage.names_in(context.run.work(folder))):
        for cluster, size in load(context.run.work(folder, name)).tolist():
            if size > max(share * documents, LARGE_CLUSTER):
                alarms.append(
                    f"the cluster of {read_index(context.run).name(cluster)} takes {size} of {documents} documents, "
                    f"exact copies not counted: more than dedup.max_cluster_share = {share}"
                )
    return sorted(alarms)
