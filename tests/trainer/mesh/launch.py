"""Real processes of a mesh, started together on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack

from tests.conftest import ROOT


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def start(module: str, processes: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """`python -m module ARGUMENTS` as each process of a mesh."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(processes)]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    started = []
    for rank in range(processes):
        if processes > 1:
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
            environ["TF_CONFIG"] = json.dumps(task)
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(started: list[subprocess.Popen[str]], timeout: float = 600) -> list[str]:
    """What each printed, once all have ended well."""
    try:
        ends = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (out, err) in zip(started, ends, strict=True):
        assert process.returncode == 0, f"process ended with {process.returncode}\n{out}\n{err}"
    return [out for out, _ in ends]
