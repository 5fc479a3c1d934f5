"""A `data` x `expert` mesh of processes, one a device: who is who, and what each may call.

Process `rank` has data index rank // expert and expert index rank % expert. Every process reads its own part of the
global batch and holds all weights but those of other expert indices' experts. Processes of one data index exchange
tokens (group `expert`); processes of one expert index hold the same experts (group `data`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Self

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]
from pydantic import Field

from schemas.errors import Refused
from trainer.config import ModelConfig, Strict
from trainer.mesh.cluster import Watch, abort_collectives, join
from trainer.mesh.collectives import Alone, Group, Line
from trainer.mesh.exchange import ExpertExchange
from trainer.mesh.place import PORT, place_of
from trainer.mesh.roll_call import roll_call
from trainer.mesh.self_test import self_test
from trainer.model import Model
from trainer.model.dispatch import Exchange, LocalExchange

# Of group keys: far from those TensorFlow counts for itself.
_KEYS = 1 << 20


class MeshConfig(Strict):
    """The mesh's shape and its patience.

    data: processes that hold the same experts. expert: processes that share a layer's experts out among them. Their
        product is the number of processes.
    timeout: seconds without the end of any collective after which a waiting process gives up; also for the start.
    heartbeat: seconds without a sign of life after which a process counts as dead, by whatever it stopped.
    port: of the first process of a machine, where TF_CONFIG does not name addresses; the next has port + 1.
    """

    data: int = Field(default=1, ge=1)
    expert: int = Field(default=1, ge=1)
    timeout: float = Field(default=300.0, gt=0)
    heartbeat: float = Field(default=60.0, ge=1)
    port: int = Field(default=PORT, ge=1, le=65535)

    @property
    def processes(self) -> int:
        """data x expert."""
        return self.data * self.expert


class Mesh:
    """One process's view of the mesh.

    config, rank; all, data, expert: the groups this process is in. A group of one is `Alone`, so that a mesh of one
    process needs no cluster and moves nothing. Made by `join`.
    """

    def __init__(self, config: MeshConfig | None = None, rank: int = 0) -> None:
        self.config = config or MeshConfig()
        self.rank = rank
        self._watch: Watch | None = None
        line = None
        if self.processes > 1:
            line = Line()
            self._watch = Watch(self.config.timeout, lambda: int(line.ended.numpy()), abort_collectives)
        shape = self.config
        every = range(self.processes)
        members = {
            "all": (0, every),
            "data": (1 + self.expert_index, range(self.expert_index, self.processes, shape.expert)),
            "expert": (1 + shape.expert + self.data_index, every[rank - self.expert_index :][: shape.expert]),
        }
        self._members = {name: ranks for name, (_, ranks) in members.items()}
        self.all, self.data, self.expert = (
            Group(_KEYS + key, len(ranks), ranks.index(rank), line) if line and len(ranks) > 1 else Alone()
            for key, ranks in members.values()
        )
        self._total = tf.function(self.all.total, autograph=False)

    @classmethod
    def join(cls, config: MeshConfig, environ: Mapping[str, str] = os.environ) -> Self:
        """The mesh, once all its processes have come and their collectives were tested.

        To be called before TensorFlow makes its first tensor. environ: see `place_of`.

        Raises:
            Refused: the environment is not one of data x expert processes, or processes differ in their config.
            TokenmillError: a process did not come within config.timeout, or a collective gives wrong values.
        """
        place = place_of(environ, config.processes, config.port)
        if place.processes > 1:
            roll_call(place, {**config.model_dump(), "tensorflow": tf.__version__}, config.timeout)
            join(place, config.timeout, config.heartbeat)
        mesh = cls(config, place.rank)
        if mesh.processes > 1:
            mesh._test()
        return mesh

    @property
    def processes(self) -> int:
        """How many there are: the loader's `hosts`, of which this one is host `rank`."""
        return self.config.processes

    @property
    def data_index(self) -> int:
        """From 0; equal in processes that exchange tokens."""
        return self.rank // self.config.expert

    @property
    def expert_index(self) -> int:
        """From 0; equal in processes that hold the same experts."""
        return self.rank % self.config.expert

    def exchange(self, model: ModelConfig) -> Exchange:
        """How tokens of a model reach its experts: what `Model(…, exchange=…)` takes.

        Raises Refused if expert does not divide the model's n_routed_experts.
        """
        if model.n_routed_experts % self.config.expert:
            raise Refused(
                f"mesh.expert is {self.config.expert}, which does not divide the model's {model.n_routed_experts} "
                f"routed experts (n_routed_experts)"
            )
        return LocalExchange() if isinstance(self.expert, Alone) else ExpertExchange(self.expert)

    def watched(self, doing: str) -> AbstractContextManager[None]:
        """In which collectives are run: a peer that is lost becomes PeerLost, which names what was being done."""
        return self._watch(f"process {self.rank}, {doing}") if self._watch else nullcontext()

    def from_first(self, value: int) -> int:
        """Process 0's value, in all; at most 2^53 in size. All must call it, as they must a collective."""
        return self._sum(value if self.rank == 0 else 0)

    def any(self, here: bool) -> bool:
        """Whether it is true of one process at least. All must call it."""
        return self._sum(int(here)) > 0

    def _sum(self, value: int) -> int:
        if self.processes == 1:
            return value
        with self.watched("agreeing with the others"):
            return int(self._total(tf.constant(value, tf.int64)))

    def gathered(self, model: Model) -> dict[str, np.ndarray] | None:
        """The whole model by variable name, in process 0; None in others. All must call it.

        Takes memory for one copy of the model in process 0. `save_pretrained(model, …, values=…)` writes it.
        """
        values = {}
        with self.watched("gathering the model"):
            for variable in [*model.variables_in_order, *model.router_biases]:
                name = variable.name.removesuffix(":0")
                if name in model.expert_names and self.expert.size > 1:
                    value = self.expert.all_gather(tf.convert_to_tensor(variable)).numpy()
                    value = value.reshape([-1, *value.shape[2:]])
                elif self.rank == 0:
                    value = variable.numpy()
                if self.rank == 0:
                    values[name] = value
        return values if self.rank == 0 else None

    def _test(self) -> None:
        groups = {"all": self.all, "data": self.data, "expert": self.expert}
        with self.watched("the self-test of collectives"):
            self_test({name: (group, self._members[name]) for name, group in groups.items() if group.size > 1})
