"""An HTTP proxy before the storage emulator that counts downloads and does to them what networks do."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

STATUSES = ("429", "500", "503")
BODIES = ("reset", "stall", "silent", "short", "ends_early", "flip", "long")


class Proxy:
    """faults: what happens to the next downloads, one after another, whatever the object; then none.

    persistent: what happens to every download of an object, by the end of its name. While `gate` is not set, downloads
    stop after their first half.
    """

    def __init__(self, upstream: int) -> None:
        self.faults: list[str] = []
        self.persistent: dict[str, str] = {}
        self.requests: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.ranges = 0
        self.halfway = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", upstream)
                connection.request("GET", self.path, headers={k: v for k, v in self.headers.items() if k != "Host"})
                answer = connection.getresponse()
                body = answer.read()
                connection.close()
                with contextlib.suppress(ConnectionError):
                    if "/download/" in self.path:
                        proxy.answer(self, answer, body)
                    else:  # the library looks at the bucket once, in a thread of its own
                        self.send_response(answer.status)
                        self.send_header("Content-Length", str(len(body)))
                        self.end_headers()
                        self.wfile.write(body)
                self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, to: BaseHTTPRequestHandler, answer: http.client.HTTPResponse, body: bytes) -> None:
        name = unquote(urlsplit(to.path).path.rsplit("/", 1)[1]).rsplit("/", 1)[-1]
        with self._lock:
            self.requests[name] += 1
            self.ranges += "Range" in to.headers
            fault = self.persistent.get(name) or (self.faults.pop(0) if self.faults else "")
        if fault in STATUSES:
            to.send_error(int(fault))
            return
        half = len(body) // 2
        if fault == "silent":
            self._stall()
            return
        if fault == "flip" and body:
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]
        if fault == "long":
            body += b"x"
        if fault == "ends_early":
            body = body[:half]
        to.send_response(answer.status)
        for header, value in answer.getheaders():
            if header.lower() not in ("content-length", "date", "server", "connection"):
                to.send_header(header, value)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body[:half])
        to.wfile.flush()
        self.halfway.set()
        self.gate.wait()
        if fault == "reset":
            to.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            to.connection.close()
        elif fault == "stall":
            self._stall()
        elif fault != "short":
            to.wfile.write(body[half:])
            with self._lock:
                self.finished[name] += fault != "ends_early"

    @staticmethod
    def _stall() -> None:
        threading.Event().wait(1.0)  # longer than the tests' timeout of one read
