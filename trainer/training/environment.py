"""What the bits of a run depend on beside its config: versions, processor, threads. Recorded; compared on resume."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import tensorflow as tf  # type: ignore[import-untyped]

# Instructions that decide which kernels run; others do not.
_INSTRUCTIONS = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile", "asimd", "sve")


def environment() -> dict[str, str]:
    """Of this process, by name. Threads of 0: as many as there are cores."""
    return {
        "python": platform.python_version(),
        "tensorflow": version("tensorflow"),
        "numpy": version("numpy"),
        "machine": platform.machine(),
        "instructions": " ".join(_instructions()),
        "devices": ", ".join(device.device_type for device in tf.config.list_logical_devices()),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "threads_within_operations": str(tf.config.threading.get_intra_op_parallelism_threads()),
        "threads_between_operations": str(tf.config.threading.get_inter_op_parallelism_threads()),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def differences(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """One phrase for each entry that is not what it was."""
    return [
        f"{name} was {then.get(name, 'not recorded')}, is {now.get(name, 'not recorded')}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]


def _instructions() -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            known = {word for line in file if line.startswith(("flags", "Features")) for word in line.split()}
    except OSError:  # not Linux: the machine's name has to do
        return []
    return [name for name in _INSTRUCTIONS if name in known]
