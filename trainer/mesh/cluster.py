"""TensorFlow's side of a mesh: joining its processes, and ending a wait for one that does not come.

Three things bound how long a process waits. A process that has died resets its connections, or is missed by the
heartbeats of TensorFlow's coordination service; so is one that is stopped, or cut off. One that lives and does not
come, because it hangs or runs another program, is found by the `Watch`.

The timeout that collectives take themselves is not used: TensorFlow 2.21 starts a thread for each of them that
sleeps for so long, which is thousands of threads at 300 seconds.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import tensorflow as tf  # type: ignore[import-untyped]

# The one private module: what MultiWorkerMirroredStrategy calls itself, without a way to set its timeouts.
from tensorflow.python.eager import context  # type: ignore[import-untyped]

from schemas.errors import Refused, TokenmillError
from trainer.mesh.place import Place


class PeerLost(TokenmillError):
    """Another process of the mesh has died or does not come. This one cannot go on; all must be started again."""


def join(place: Place, timeout: float, heartbeat: float) -> None:
    """Make collectives possible among the processes of `place.addresses`, which must all join now.

    timeout: seconds for the join, after which the process ends. heartbeat: as in `MeshConfig`.

    Raises:
        Refused: TensorFlow was used before, or sees more than one GPU.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:
        raise Refused(f"this process sees {len(gpus)} GPUs; a mesh has one process a device: set CUDA_VISIBLE_DEVICES")
    jobs = [context.coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=place.processes)]
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(timeout * 1000),
        heartbeat_timeout_in_ms=int(heartbeat * 1000),
        coordinated_jobs=jobs,
    )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(place.addresses)}),
        task_type="worker",
        task_id=place.rank,
        rpc_layer="grpc",
    )
    # All have answered the roll call a moment ago. If one dies in this moment the join may wait for it while holding
    # Python's lock, and only this ends the process.
    faulthandler.dump_traceback_later(timeout, exit=True)
    try:
        tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise Refused(
            "a mesh must be joined before TensorFlow makes its first tensor; call Mesh.join first of all"
        ) from None
    except tf.errors.OpError as error:
        raise PeerLost(f"process {place.rank} could not join the others: {error.message}") from error
    finally:
        faulthandler.cancel_dump_traceback_later()


def abort_collectives(why: str) -> None:
    """End all collectives of this process, now and later, with tf.errors.DeadlineExceededError that says why."""
    context.context().abort_collective_ops(tf.errors.DEADLINE_EXCEEDED, why)


class Watch:
    """Ends a wait in which no collective has ended for `timeout` seconds.

    ended: how many collectives have; called in a thread of the watch. abort: makes the wait an error.
    Time in which this process itself was stopped does not count: a machine that slept is no peer that hangs.
    """

    def __init__(self, timeout: float, ended: Callable[[], int], abort: Callable[[str], None]) -> None:
        self._timeout, self._ended, self._abort = timeout, ended, abort
        self._pause = min(1.0, timeout / 10)
        self._waiting = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def __call__(self, doing: str) -> Iterator[None]:
        """Watch what is done inside; `doing` names it in errors. Raises PeerLost for a collective that failed."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, daemon=True, name="mesh watch")
            self._thread.start()
        self._waiting.set()
        try:
            yield
        except tf.errors.OpError as error:
            if "ollective" not in str(error):
                raise
            reason = str(error.message).partition("Collective ops is aborted by: ")
            first = " ".join((reason[2] or reason[0]).partition("\nThe error could be")[0].split())
            raise PeerLost(
                f"{doing}: another process of the mesh has died or does not answer; start all of them again ({first})"
            ) from error
        finally:
            self._waiting.clear()

    def _look(self) -> None:
        while True:
            self._waiting.wait()
            count, still = self._ended(), 0.0
            while self._waiting.is_set() and still < self._timeout:
                begun = time.monotonic()
                time.sleep(self._pause)
                still += min(time.monotonic() - begun, 2 * self._pause)
                now = self._ended()
                if now != count:
                    count, still = now, 0.0
            if self._waiting.is_set():
                self._abort(f"no collective ended for {self._timeout:g} s")
                return
