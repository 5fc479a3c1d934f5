"""Dask: the same steps on a cluster of worker processes, by Beam's DaskRunner.

Beam cuts what it sends to workers into `--dask_npartitions` parts; without that option everything would be one part
and one worker's work. Workers must see the sources and the run directory under the same paths: one machine, a shared
filesystem, or gs://.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from schemas.errors import Refused


def load() -> Any:
    """Beam's module of the runner, which makes its options known. Raises Refused when Dask is not installed."""
    if find_spec("distributed") is None:
        raise Refused("--runner DaskRunner: Dask is not installed; install tokenmill with the extra `dask`")
    from apache_beam.runners.dask import dask_runner  # noqa: PLC0415

    return dask_runner


def partitions(options: PipelineOptions) -> int:
    """Into how many parts work is cut. Raises Refused when the command line does not say."""
    count: int | None = options.view_as(load().DaskOptions).npartitions
    if not count:
        raise Refused(
            "--runner DaskRunner: give --dask_npartitions, the number of parts work is cut into: a few times the "
            "number of workers"
        )
    return count


def runner() -> Any:
    """Beam's runner, which lets its connection go when a pipeline has ended."""
    module = load()

    class Closing(module.DaskRunnerResult):  # type: ignore[name-defined]
        def wait_until_finish(self, duration: Any = None) -> str:
            try:
                state: str = super().wait_until_finish(duration)
            finally:
                self.client.close()
            return state

    class Runner(module.DaskRunner):  # type: ignore[name-defined]
        def run_pipeline(self, pipeline: Any, options: PipelineOptions) -> Any:
            result = super().run_pipeline(pipeline, options)
            return Closing(result.client, result.futures)

    return Runner()
