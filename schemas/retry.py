"""When a failed request is tried again, and when it is given up: the only layer that retries.

The pauses grow twofold from `first` to `longest`, each between half and all of its value (equal jitter, so that hosts
that failed together do not come back together), and start anew after a try that brought bytes. An object is given up
`grace` seconds plus the time its bytes take at `slowest` after its first request.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from schemas.errors import TokenmillError

T = TypeVar("T")


class Transient(Exception):
    """A failure that may pass: worth another try. progressed: some bytes arrived before it."""

    def __init__(self, message: str, progressed: bool = False) -> None:
        super().__init__(message)
        self.progressed = progressed


@dataclass(frozen=True)
class Retry:
    """The limits. grace, first, longest, connect, read: seconds; slowest: bytes a second.

    connect and read bound one request: the time to connect, and the longest silence while bytes are awaited.
    """

    grace: float = 300.0
    slowest: float = 256 * 1024.0
    first: float = 0.5
    longest: float = 32.0
    connect: float = 10.0
    read: float = 30.0

    def seconds(self, size: int) -> float:
        """The longest an object of `size` bytes may take, over all tries."""
        return self.grace + size / self.slowest


def retried(action: Callable[[], T], name: str, seconds: float, retry: Retry, sleep: Callable[[float], object]) -> T:
    """Call `action` until it returns; tries again on Transient. `name` begins the error's sentence.

    Raises:
        TokenmillError: `seconds` would be over before the next try; with the last failure as its cause.
    """
    start = time.monotonic()
    jitter = random.Random(f"{socket.gethostname()} {os.getpid()} {name}")
    tries = fruitless = 0
    while True:
        try:
            return action()
        except Transient as error:
            tries += 1
            fruitless = 1 if error.progressed else fruitless + 1
            pause = min(retry.longest, retry.first * 2.0 ** min(fruitless - 1, 30)) * jitter.uniform(0.5, 1)
            elapsed = time.monotonic() - start
            if elapsed + pause > seconds:
                raise TokenmillError(
                    f"{name}: given up after {elapsed:.0f} s and {tries} tries; the last one: {error}"
                ) from error
        sleep(pause)
