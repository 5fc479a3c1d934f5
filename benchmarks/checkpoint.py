"""What a checkpoint costs: how long training stands still, how long the background write takes, how many bytes it has.

    python benchmarks/checkpoint.py [--folder DIR] [--parameters N] [--repeats N] [--orbax PYTHON]

The state is that of a run: N float32 weights and two bfloat16 moments, in 64 arrays each, Gaussian with a standard
deviation of 0.02 (0.67 GB by default). In turn, several times: a copy of it into buffers that are there already; our
save; the same bytes written to one file and flushed to disk; Orbax's asynchronous save of the same as JAX arrays,
when --orbax names the Python of an environment that has orbax-checkpoint and jax. Prints medians, the least and the
greatest. All three writes end when their data is flushed to disk; none removes an older checkpoint.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that a checkout need not be installed

import ml_dtypes  # noqa: E402
import numpy as np  # noqa: E402

from trainer.checkpoint import Owned, Retention, Saver, newest_good, records  # noqa: E402

ARRAYS = 64

# Run in Orbax's environment: a save for each line of input; prints seconds until it returns, until it ends, bytes.
ORBAX = """
import os, shutil, sys, time
import jax, jax.numpy as jnp, numpy as np
import orbax.checkpoint as ocp
path, arrays, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
def values():
    return rng.standard_normal(size, np.float32) * np.float32(0.02)
state = {f"{kind}{i}": jnp.asarray(values(), dtype) for i in range(arrays)
         for kind, dtype in (("w", jnp.float32), ("m", jnp.bfloat16), ("v", jnp.bfloat16))}
jax.block_until_ready(state)
checkpointer = ocp.StandardCheckpointer()
print("ready", flush=True)
for line in sys.stdin:
    begun = time.perf_counter()
    checkpointer.save(path, state)
    blocked = time.perf_counter() - begun
    checkpointer.wait_until_finished()
    total = time.perf_counter() - begun
    stored = sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)
    shutil.rmtree(path)
    print(blocked, total, stored, flush=True)
"""


def state(size: int) -> dict[str, np.ndarray]:
    """Weights and two moments of ARRAYS layers, `size` elements each."""
    rng = np.random.default_rng(0)
    found = {}
    for index in range(ARRAYS):
        for kind, dtype in (("w", np.float32), ("m", ml_dtypes.bfloat16), ("v", ml_dtypes.bfloat16)):
            values = rng.standard_normal(size, np.float32) * np.float32(0.02)
            found[f"{kind}{index}"] = values.astype(dtype, copy=False)
    return found


def plain_copy(arrays: dict[str, np.ndarray], buffers: dict[str, np.ndarray]) -> float:
    """Seconds to copy the arrays into buffers of their own."""
    begun = time.perf_counter()
    for name, array in arrays.items():
        np.copyto(buffers[name], array)
    return time.perf_counter() - begun


def plain_write(arrays: dict[str, np.ndarray], path: Path) -> float:
    """Seconds to write the arrays to one file and flush it."""
    begun = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for array in arrays.values():
            rest = memoryview(array.view(np.uint8))
            while rest:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begun
    path.unlink()
    return seconds


class Orbax:
    """Orbax in a process of its own."""

    def __init__(self, python: str, folder: Path, size: int) -> None:
        command = [python, "-c", ORBAX, str(folder / "orbax"), str(ARRAYS), str(size)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"{python} cannot run orbax-checkpoint with jax")

    def save(self) -> tuple[float, float, float]:
        """Seconds the caller waits, seconds until it has ended, bytes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("save", file=self.process.stdin, flush=True)
        blocked, total, stored = map(float, self.process.stdout.readline().split())
        return blocked, total, stored


def shown(values: list[float], scale: float = 1.0) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values) * scale:.3f} ({min(values) * scale:.3f} to {max(values) * scale:.3f})"


def measure(folder: Path, parameters: int, repeats: int, orbax: str | None) -> None:  # noqa: PLR0915
    """Run all kinds in turn and print what they took."""
    size = parameters // ARRAYS
    arrays = state(size)
    raw = sum(array.nbytes for array in arrays.values())
    owned = [Owned.whole(name, array) for name, array in arrays.items()]
    buffers = {name: np.zeros_like(array) for name, array in arrays.items()}
    peer = Orbax(orbax, folder, size) if orbax else None
    copy, blocked, plain, ours, ours_bytes, verify, read = ([] for _ in range(7))
    peer_blocked, peer_total, peer_bytes = [], [], []
    saver = Saver(str(folder / "ours"), keep=Retention(100))
    saver.prepare(owned)
    for repeat in range(repeats + 1):
        copied = plain_copy(arrays, buffers)
        saver.save(repeat, owned, {})
        (outcome,) = saver.wait()
        if outcome.error is not None:
            raise outcome.error
        if repeat:  # outside of the time, as with the others
            shutil.rmtree(Path(outcome.path).parent / records.step_name(repeat - 1))
        written = plain_write(arrays, folder / "plain")
        begun = time.perf_counter()
        checkpoint = newest_good(saver.directory).checkpoint
        assert checkpoint is not None
        verified = time.perf_counter() - begun
        for name in arrays:
            checkpoint.read(name)
        loaded = time.perf_counter() - begun
        theirs = peer.save() if peer else None
        if repeat == 0:
            continue  # what comes once: imports, first pages
        copy.append(copied)
        blocked.append(outcome.blocked.copied_seconds)
        plain.append(written)
        ours.append(outcome.seconds)
        ours_bytes.append(outcome.bytes)
        verify.append(verified)
        read.append(loaded)
        if theirs:
            for values, value in zip((peer_blocked, peer_total, peer_bytes), theirs, strict=True):
                values.append(value)
    print(f"state: {raw / 1e9:.3f} GB, {parameters / 1e6:.1f} M parameters, {repeats} repeats")
    print(f"copy into buffers, s:        {shown(copy)}")
    print(f"training blocked, s:         {shown(blocked)}")
    print(f"  of the copy:               {shown([b / c for b, c in zip(blocked, copy, strict=True)])}")
    print(f"bytes, of 12 a parameter:    {ours_bytes[0] / (12 * size * ARRAYS):.4f}")
    print(f"plain flushed write, GB/s:   {shown([raw / s for s in plain], 1e-9)}")
    print(f"our write, GB/s of state:    {shown([raw / s for s in ours], 1e-9)}")
    print(f"  of the plain write:        {shown([p / o for p, o in zip(plain, ours, strict=True)])}")
    print(f"verify, s:                   {shown(verify)}")
    print(f"verify and read all, s:      {shown(read)}")
    if peer_total:
        print(f"orbax blocked, s:            {shown(peer_blocked)}")
        print(f"orbax write, GB/s of state:  {shown([raw / s for s in peer_total], 1e-9)}")
        print(f"orbax bytes, of 12:          {peer_bytes[0] / (12 * size * ARRAYS):.4f}")
        print(f"ours to orbax:               {shown([t / o for t, o in zip(peer_total, ours, strict=True)])}")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    parser.add_argument("--parameters", type=int, default=83_500_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--orbax", metavar="PYTHON", help="compare with Orbax in this Python")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=options.folder))
    try:
        measure(folder, options.parameters, options.repeats, options.orbax)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
