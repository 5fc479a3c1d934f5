"""Processes meet, or say who is missing."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from schemas.errors import Refused, TokenmillError
from tests.trainer.mesh.launch import free_ports
from trainer.mesh.place import Place
from trainer.mesh.roll_call import roll_call


def call(ranks: list[int], settings: list[dict[str, Any]], processes: int = 3, timeout: float = 20) -> list[Any]:
    """What each of `ranks`, a thread each, ends with."""
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(processes))

    def run(rank: int, mine: dict[str, Any]) -> Any:
        try:
            return roll_call(Place(rank, addresses), mine, timeout)
        except TokenmillError as error:
            return error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(run, ranks, settings))


def test_all_go_on_when_all_have_come() -> None:
    assert call([2, 0, 1], [{"data": 3}] * 3) == [None, None, None]


def test_the_missing_are_named_within_the_time() -> None:
    begun = time.monotonic()
    listener, caller = call([0, 1], [{}] * 2, timeout=1.0)
    assert time.monotonic() - begun < 10
    assert "after 1 s these processes of the mesh had not started: 2 (127.0.0.1:" in str(listener)
    assert "process 1 heard nothing from process 0" in str(caller)


def test_different_settings_are_refused_everywhere() -> None:
    found = call([0, 1], [{"data": 2, "expert": 1}, {"data": 1, "expert": 1}], processes=2)
    assert {str(error) for error in found} == {"data is 2 in process 0 and 1 in process 1; start all alike"}
    assert {type(error) for error in found} == {Refused}


def test_strangers_on_the_port_are_passed_over() -> None:
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(2))
    host, port = addresses[0].split(":")
    with ThreadPoolExecutor() as pool:
        listener = pool.submit(roll_call, Place(0, addresses), {}, 20)
        for line in (b"GET / HTTP/1.1\r\n", b"", json.dumps({"rank": "x"}).encode() + b"\n"):
            for _ in range(50):
                try:
                    with socket.create_connection((host, int(port))) as stranger:
                        stranger.sendall(line)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
        roll_call(Place(1, addresses), {}, 20)
        assert listener.result() is None


def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TokenmillError, match=f"cannot listen on port {port}"):
            roll_call(Place(0, (f"127.0.0.1:{port}", "127.0.0.1:1")), {}, 1)
