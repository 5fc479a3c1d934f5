"""Two processes, one of which is lost; the other prints after how many seconds it knew, and what it was told.

    python -m tests.trainer.mesh.lost HOW RANK

HOW: kill, stop or hang; RANK: the one that is lost.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import tensorflow as tf

from trainer.mesh import Mesh, MeshConfig, PeerLost

HEARTBEAT, PATIENCE = 5.0, 6.0


def main() -> None:
    """Join, move something once, be lost or wait."""
    how, lost = sys.argv[1], int(sys.argv[2])
    mesh = Mesh.join(MeshConfig(data=2, timeout=300, heartbeat=HEARTBEAT if how != "hang" else 300))
    # Patient at the start, as processes start slowly on a busy machine, and not from here on.
    mesh._watch._timeout = PATIENCE if how == "hang" else 300  # type: ignore[union-attr]
    step = tf.function(lambda: mesh.all.all_reduce(tf.ones([3])), autograph=False)
    with mesh.watched("step"):
        assert step().numpy().tolist() == [2.0] * 3
    if mesh.rank == lost:
        if how == "hang":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    begun = time.monotonic()
    for _ in range(2):  # a mesh that has lost a process stays lost
        try:
            with mesh.watched("step"):
                step()
        except PeerLost as error:
            print(f"{time.monotonic() - begun:.1f} {error}", flush=True)


if __name__ == "__main__":
    main()
