"""The machine and its devices: processor, host memory, and what NVIDIA's library says where nvidia-ml-py is installed.

Devices were never sampled: no GPU was at hand. The calls are those of nvidia-ml-py 13.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import tensorflow as tf  # type: ignore[import-untyped]

GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class DeviceRecord:
    """A GPU. index: TensorFlow's, from 0. utilisation: share of time in which it was busy lately. temperature: °C.

    memory_used: bytes that processes took from the driver; TensorFlow takes nearly all at its start. allocated: those
    in use by TensorFlow's tensors here; None where this process does not know.
    """

    index: int
    name: str
    utilisation: float
    temperature: float
    memory_used: int
    memory_total: int
    allocated: int | None

    @property
    def used_share(self) -> float:
        """Of memory, by what is in use if that is known."""
        return (self.memory_used if self.allocated is None else self.allocated) / self.memory_total


@dataclass(frozen=True)
class SystemRecord:
    """The machine at a time. step: the last one made.

    cpu_percent: of all cores together, since the sample before. memory_*: bytes; total is the control group's limit
    where there is one, available what can be had without swapping, own the resident memory of this process.
    """

    step: int
    time: str
    cpu_percent: float
    memory_total: int
    memory_used: int
    memory_available: int
    memory_own: int
    devices: Sequence[DeviceRecord] = ()

    @property
    def used_shares(self) -> dict[str, float]:
        """The used share of each memory by name."""
        shares = {"host memory": 1 - self.memory_available / self.memory_total}
        return shares | {f"memory of device {device.index}": device.used_share for device in self.devices}

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "system", **asdict(self)}


def utc() -> str:
    """The time, such as 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class System:
    """Samples this machine. Making it starts NVIDIA's library if it is installed and finds a driver."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._devices = Devices.found()
        psutil.cpu_percent()  # the first call has nothing before it to compare with

    def sample(self, step: int) -> SystemRecord:
        """Now. Takes less than a millisecond without devices."""
        memory = psutil.virtual_memory()
        total, available = within(GROUP, memory.total, memory.available)
        return SystemRecord(
            step,
            utc(),
            psutil.cpu_percent(),
            total,
            total - available,
            available,
            self._process.memory_info().rss,
            self._devices.sample() if self._devices else (),
        )


def within(group: Path, total: int, available: int) -> tuple[int, int]:
    """Bytes of memory in all and available, within a control group's limit (version 2) if it has one.

    Beyond `memory.max` processes are killed, however much the machine has. Its inactive file pages can be taken back.
    """
    try:
        limit = (group / "memory.max").read_text().strip()
        current = int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
    except FileNotFoundError:  # the root group, or no such groups here
        return total, available
    if limit == "max" or int(limit) >= total:
        return total, available
    back = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return int(limit), min(available, max(0, int(limit) - current + back))


class Devices:
    """NVIDIA's devices that this process may use, in TensorFlow's order.

    CUDA numbers them as NVML does where CUDA_DEVICE_ORDER is PCI_BUS_ID, or all devices are alike.
    """

    def __init__(self, library: Any, visible: str | None) -> None:
        """library: the module `pynvml`, its nvmlInit called. visible: CUDA_VISIBLE_DEVICES."""
        self._nvml = library
        count = library.nvmlDeviceGetCount()
        self._handles = []
        for part in [str(index) for index in range(count)] if visible is None else visible.split(","):
            if part.strip().isdecimal() and int(part) < count:
                self._handles.append(library.nvmlDeviceGetHandleByIndex(int(part)))
            elif part.strip().startswith("GPU-"):
                self._handles.append(library.nvmlDeviceGetHandleByUUID(part.strip()))
            else:
                break  # as CUDA does at the first that it does not know
        names = [library.nvmlDeviceGetName(handle) for handle in self._handles]
        self._names = [name.decode() if isinstance(name, bytes) else str(name) for name in names]

    @classmethod
    def found(cls) -> Devices | None:
        """None where the library is not installed or finds no driver."""
        try:
            import pynvml  # type: ignore[import-not-found]  # noqa: PLC0415  (optional)
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return None
        return cls(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def sample(self) -> tuple[DeviceRecord, ...]:
        """Now."""
        nvml, records = self._nvml, []
        ours = len(tf.config.list_logical_devices("GPU"))
        for index, (name, handle) in enumerate(zip(self._names, self._handles, strict=True)):
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            allocated = tf.config.experimental.get_memory_info(f"GPU:{index}")["current"] if index < ours else None
            busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            temperature = float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
            records.append(DeviceRecord(index, name, busy, temperature, memory.used, memory.total, allocated))
        return tuple(records)
