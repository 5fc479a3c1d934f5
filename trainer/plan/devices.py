"""Devices a plan can be made for. Rates are the makers' published peaks; what of them a step reaches is an assumption
of the plan, stated in its output.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from schemas.errors import Refused


@dataclass(frozen=True)
class Device:
    """memory: bytes; flops: of dense bfloat16 products, a second; link: bytes a second one device sends to devices of
    its node (or slice), network: to others; node: devices of a node.
    """

    name: str
    memory: int
    flops: float
    link: float
    network: float
    node: int


_GB = 10**9
DEVICES = {
    device.name: device
    for device in (
        Device("h100", 80 * _GB, 989e12, 450e9, 50e9, 8),
        Device("h200", 141 * _GB, 989e12, 450e9, 50e9, 8),
        Device("b200", 180 * _GB, 2250e12, 900e9, 50e9, 8),
        Device("mi300x", 192 * _GB, 1307e12, 448e9, 50e9, 8),
        # ICI: a v5p chip has six links of 100 GB/s each way; a slice is one network of them.
        Device("tpu-v5p", 95 * _GB, 459e12, 600e9, 600e9, 8960),
        # Two cores of a server, by this project's own measurements of collectives on one machine.
        Device("cpu", 12 * _GB, 0.2e12, 0.4e9, 0.4e9, 2),
    )
}


def device(name: str) -> Device:
    """The device called `name`. Raises Refused, naming those there are."""
    if name not in DEVICES:
        close = difflib.get_close_matches(name, DEVICES, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise Refused(f"unknown device {name!r}{meant} (there are {', '.join(DEVICES)})")
    return DEVICES[name]
