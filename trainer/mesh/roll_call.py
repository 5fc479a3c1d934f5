"""Whether every process of a mesh has started, and with the same settings, before TensorFlow joins them.

TensorFlow's own join waits without a limit for a process that never comes, and holds Python's lock meanwhile. So the
processes meet here first: process 0 listens where TensorFlow will listen afterwards, each other one connects, says who
it is, and is told to go on once all have.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

from schemas.errors import Refused, TokenmillError
from trainer.mesh.place import Place

_PAUSE = 0.1  # seconds between two tries


def roll_call(place: Place, settings: dict[str, Any], timeout: float) -> None:
    """Return once all processes of `place.addresses` have called with equal `settings` (JSON values).

    timeout: seconds to wait.

    Raises:
        TokenmillError: a process did not come in time (process 0 names them), or the address is taken.
        Refused: processes differ in settings; each of them says in which.
    """
    deadline = time.monotonic() + timeout
    if place.rank == 0:
        _listen(place, settings, deadline, timeout)
    else:
        _call(place, settings, deadline, timeout)


def _listen(place: Place, settings: dict[str, Any], deadline: float, timeout: float) -> None:
    port = int(place.addresses[0].rpartition(":")[2])
    missing = set(range(1, place.processes))
    with contextlib.ExitStack() as calls:
        try:
            server = calls.enter_context(socket.create_server(("", port), backlog=place.processes))
        except OSError as error:
            raise TokenmillError(
                f"process 0 cannot listen on port {port} ({error.strerror}); does another run use it?"
            ) from None
        answers, differing = [], ""
        while missing and not differing:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                call, _ = server.accept()
                calls.enter_context(call)
                call.settimeout(max(min(deadline - time.monotonic(), 5.0), 0.001))
                said = json.loads(call.makefile("rb").readline())
                rank, theirs = int(said["rank"]), dict(said["settings"])
            except TimeoutError:
                if time.monotonic() < deadline:
                    continue
                names = ", ".join(f"{rank} ({place.addresses[rank]})" for rank in sorted(missing))
                raise TokenmillError(
                    f"after {timeout:g} s these processes of the mesh had not started: {names}"
                ) from None
            except (OSError, ValueError, KeyError, TypeError):
                continue  # somebody else: a port may be scanned
            answers.append(call)
            differing = _differences(rank, settings, theirs)
            missing.discard(rank)
        for call in answers:
            with contextlib.suppress(OSError):  # it has gone: the join says so
                call.sendall(json.dumps({"differing": differing}).encode() + b"\n")
        if differing:
            raise Refused(differing)


def _differences(rank: int, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            return f"{key} is {ours.get(key)} in process 0 and {theirs.get(key)} in process {rank}; start all alike"
    return ""


def _call(place: Place, settings: dict[str, Any], deadline: float, timeout: float) -> None:
    host, _, port = place.addresses[0].rpartition(":")
    line = json.dumps({"rank": place.rank, "settings": settings}).encode() + b"\n"
    answer = b""
    while not answer.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TokenmillError(
                f"process {place.rank} heard nothing from process 0 ({place.addresses[0]}) for {timeout:g} s; "
                f"has it started, and does it still wait for others?"
            )
        try:
            with socket.create_connection((host, int(port)), timeout=left) as call:
                call.sendall(line)
                answer = call.makefile("rb").readline()
        except OSError:  # not there yet, or out of time
            pass
        if not answer.endswith(b"\n"):
            time.sleep(_PAUSE)
    differing = json.loads(answer)["differing"]
    if differing:
        raise Refused(differing)
