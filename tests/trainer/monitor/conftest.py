"""A real HTTP server that webhooks post to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

SECRET = "T0K3N-5ECRET"


@dataclass
class Server:
    """Answers each POST with the next status, the last one again and again; `hold` makes it wait."""

    statuses: list[int]
    hold: threading.Event = field(default_factory=threading.Event)
    got: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    facts = Server([200])
    facts.hold.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            facts.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
            facts.hold.wait(30)
            self.send_response(facts.statuses.pop(0) if len(facts.statuses) > 1 else facts.statuses[0])
            self.send_header("Location", f"{facts.url}/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            facts.got.append(("GET " + self.path, "", {}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        facts.url = f"http://127.0.0.1:{http.server_port}/hook/{SECRET}"
        thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield facts
        facts.hold.set()
        http.shutdown()
