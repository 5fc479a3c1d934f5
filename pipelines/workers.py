"""Local worker processes, forked from one process that has loaded everything they need.

Beam's local runner starts each worker as a fresh interpreter, which takes seconds to import Beam and the stages, for
every pipeline anew. Here one process (Python's fork server) does that once, beside the driver's own start; a worker is
then a fork of it, there in milliseconds, and its modules are in memory once.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing import forkserver
from typing import Any

_LOADED = (
    "apache_beam.runners.worker.sdk_worker_main",
    "pipelines.graph",
    "pipelines.attempt",
    "datasketch",  # which signing imports late
)
WATCH = "worker watch"
"""The name of the threads that raise when a worker has died."""


def prepare() -> None:
    """Start the process that workers are forked from; it loads their modules in the background."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_LOADED))
    forkserver.ensure_running()


def use_forks() -> None:
    """Let Beam's local runner start its worker processes by `prepare`d forks."""
    from apache_beam.portability import python_urns  # noqa: PLC0415
    from apache_beam.runners.portability.fn_api_runner import worker_handlers  # noqa: PLC0415
    from google.protobuf import json_format, text_format  # noqa: PLC0415

    class ForkedWorker(worker_handlers.GrpcWorkerHandler):
        """One worker process, as the runner handles it."""

        def __init__(self, _command: bytes, state: Any, provision_info: Any, grpc_server: Any) -> None:
            super().__init__(state, provision_info, grpc_server)

        def start_worker(self) -> None:
            options = self.provision_info.provision_info.pipeline_options
            environment = {
                "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(self.control_api_service_descriptor()),
                "PIPELINE_OPTIONS": json_format.MessageToJson(options),
                "WORKER_ID": self.worker_id,
            }
            prepare()
            process = multiprocessing.get_context("forkserver").Process(target=_serve, args=(environment,))
            process.start()
            self._watch = threading.Thread(target=_wait, args=(process,), name=WATCH)
            self._watch.start()

        def stop_worker(self) -> None:
            self._watch.join()

    worker_handlers.WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(ForkedWorker)


def _serve(environment: dict[str, str]) -> None:
    """Work for the runner that `environment` names, until it has no more to do."""
    from apache_beam.runners.worker import sdk_worker_main  # noqa: PLC0415

    os.environ.update(environment)
    sdk_worker_main.main(sys.argv)


def _wait(process: Any) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f"a worker ended with code {process.exitcode}")
