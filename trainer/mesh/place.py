"""Where this process stands among those of a job: its rank, and the address of each. Read from the environment alone.

Three kinds of environment are known, in this order: `TF_CONFIG`, a step of Slurm, an indexed Job of Kubernetes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import Refused

PORT = 2222


@dataclass(frozen=True)
class Place:
    """rank: from 0; addresses: host:port of each process, in the order of ranks. One process alone has no address."""

    rank: int = 0
    addresses: tuple[str, ...] = ()

    @property
    def processes(self) -> int:
        """How many there are."""
        return max(len(self.addresses), 1)


def place_of(environ: Mapping[str, str], processes: int, port: int = PORT) -> Place:
    """The place of this process among `processes`, from its environment variables.

    TF_CONFIG: {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}.
    Slurm: SLURM_PROCID, SLURM_NTASKS, SLURM_STEP_NODELIST and SLURM_STEP_TASKS_PER_NODE, as srun sets them for its
        default distribution, by blocks; process i of a node listens on port + i.
    Kubernetes: JOB_COMPLETION_INDEX, and HOSTNAME = <job>-<index> as in an indexed Job, whose pods see each other as
        <job>-<index>.<service>; TOKENMILL_SERVICE names the headless service, by default as the job.

    Raises:
        Refused: the environment is of another number of processes, or lacks a variable; says which.
    """
    if environ.get("TF_CONFIG"):
        origin, place = "TF_CONFIG", _tf_config(environ["TF_CONFIG"])
    elif "SLURM_PROCID" in environ and environ.get("SLURM_NTASKS", "1") != "1":
        origin, place = "Slurm's SLURM_NTASKS", _slurm(environ, port)
    elif "JOB_COMPLETION_INDEX" in environ and processes > 1:
        origin, place = "Kubernetes", _kubernetes(environ, processes, port)
    else:
        origin, place = "the environment (no TF_CONFIG, Slurm step or indexed Job of Kubernetes)", Place()
    if place.processes != processes:
        raise Refused(
            f"the mesh has {processes} processes, but {origin} says {place.processes}; "
            f"start as many processes as data x expert says"
        )
    if not 0 <= place.rank < processes:
        raise Refused(f"{origin} gives this process the rank {place.rank}; ranks are 0 to {processes - 1}")
    return place


def _tf_config(text: str) -> Place:
    try:
        parsed = json.loads(text)
        cluster, task = parsed.get("cluster", {}), parsed.get("task", {})
        if not cluster:
            return Place()
        if set(cluster) != {"worker"} or task["type"] != "worker":
            raise Refused(f"TF_CONFIG: has the jobs {', '.join(cluster)}; list all processes as `worker`")
        return Place(int(task["index"]), tuple(str(address) for address in cluster["worker"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            f"TF_CONFIG: cannot be read ({type(error).__name__}: {error}); it must be "
            '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}'
        ) from None


def _slurm(environ: Mapping[str, str], port: int) -> Place:
    distribution = environ.get("SLURM_DISTRIBUTION", "block")
    if not distribution.startswith("block"):
        raise Refused(f"SLURM_DISTRIBUTION is {distribution}; start with srun --distribution=block, or give TF_CONFIG")
    nodes = _nodes(_needed(environ, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))
    tasks = _tasks(_needed(environ, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"))
    if len(nodes) != len(tasks) or sum(tasks) != int(environ["SLURM_NTASKS"]):
        raise Refused(
            f"Slurm names {len(nodes)} nodes, tasks for {len(tasks)} of them, {sum(tasks)} in all, and SLURM_NTASKS="
            f"{environ['SLURM_NTASKS']}; start the processes with srun, or give TF_CONFIG"
        )
    addresses = (f"{node}:{port + i}" for node, count in zip(nodes, tasks, strict=True) for i in range(count))
    return Place(int(environ["SLURM_PROCID"]), tuple(addresses))


def _nodes(text: str) -> list[str]:
    """Slurm's list of nodes, written out: `a[01-03,7],b` is a01, a02, a03, a7, b."""
    nodes = []
    for prefix, ranges, suffix in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\]([^,\[\]]*))?", text):
        if not ranges:
            nodes.append(prefix)
        for part in filter(None, ranges.split(",")):
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            nodes += [f"{prefix}{number:0{len(first)}d}{suffix}" for number in numbers]
    return nodes


def _tasks(text: str) -> list[int]:
    """Slurm's tasks a node, written out: `2(x3),1` is 2, 2, 2, 1."""
    counts = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts


def _kubernetes(environ: Mapping[str, str], processes: int, port: int) -> Place:
    index, host = environ["JOB_COMPLETION_INDEX"], _needed(environ, "HOSTNAME")
    job = host.removesuffix(f"-{index}")
    if job == host:
        raise Refused(f"HOSTNAME is {host}, which does not end in the pod's index -{index}; set TF_CONFIG")
    service = environ.get("TOKENMILL_SERVICE", job)
    return Place(int(index), tuple(f"{job}-{i}.{service}:{port}" for i in range(processes)))


def _needed(environ: Mapping[str, str], *names: str) -> str:
    for name in names:
        if environ.get(name):
            return environ[name]
    raise Refused(f"the environment variable {names[0]} is not set; without it processes cannot find each other")
