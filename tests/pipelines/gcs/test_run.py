"""A whole run from and to gs://: the bytes of a run on disk, over a bad network and after kills; then the loader."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.conftest import ROOT
from tests.emulator import BUCKET, client_of, stored, upload
from tests.pipelines.gcs.proxy import FAULTS, Proxy
from tests.pipelines.tiny import contents, tiny_config, write_config

KINDS = ("put", "stat", "download", "list", "delete")
PREFIX = f"gs://{BUCKET}"


def command(config: Path, output: object, *options: str) -> list[str]:
    options = options or ("--direct_num_workers=1",)
    return [sys.executable, "-m", "pipelines", "run", str(config), "--output", str(output), *options]


def run(config: Path, output: object, *options: str) -> str:
    made = subprocess.run(command(config, output, *options), cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout


class Corpus:
    """The tiny corpus in the bucket too, a config for either place, and what a run on disk makes of it."""

    def __init__(self, folder: Path, written: Path, emulator: int) -> None:
        tiny = folder / "tiny"
        self.local, self.directory, self.made = tiny / "config.yaml", folder / "run", contents(folder / "run")
        names = [path for path in tiny.rglob("*") if path.is_file() and path != self.local]
        upload(emulator, {f"tiny/{path.relative_to(tiny)}": path.read_bytes() for path in names})
        remote = json.loads(json.dumps(tiny_config(tiny)).replace(str(tiny), f"{PREFIX}/tiny"))
        self.remote = write_config(written / "remote.yaml", remote)


@pytest.fixture(scope="module")
def corpus(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory, emulator: int) -> Corpus:
    """The corpus and the truth."""
    return Corpus(tiny_run, tmp_path_factory.mktemp("gcs"), emulator)


def hashes(emulator: int, output: str) -> dict[str, str]:
    """The sha256 of every object of a run but run.json; all that is there counts."""
    found = stored(emulator, output.removeprefix(f"{PREFIX}/") + "/")
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(found.items()) if name != "run.json"}


def same_but_roots(ours: dict[str, str], truth: dict[str, str]) -> bool:
    """config.yaml alone says where the sources lie."""
    return ours.keys() == truth.keys() and {k for k in truth if ours[k] != truth[k]} <= {"config.yaml"}


def test_from_and_to_the_bucket_the_bytes_are_those_on_disk(
    corpus: Corpus, proxy: Proxy, emulator: int, tmp_path: Path
) -> None:
    output = f"{PREFIX}/clean"
    run(corpus.remote, output)
    ours = hashes(emulator, output)
    assert same_but_roots(ours, corpus.made)
    assert sum(request.kind == "list" and request.name.startswith("tiny/code") for request in proxy.requests) == 1
    again = len([request for request in proxy.requests if request.kind == "put"])
    assert "nothing to do" in run(corpus.remote, output)
    puts = [request.name for request in proxy.requests if request.kind == "put"][again:]
    assert {name.rsplit("/", 1)[1] for name in puts} <= {
        ".lock",
        "config.yaml",
        "units.parquet",
        "roots.json",
        "plan.json",
    }
    assert hashes(emulator, output) == ours
    # `status`, `report` and `explain` read it where it lies.
    for arguments in (["status", output], ["explain", output, "000.py"], ["report", output]):
        made = subprocess.run(
            [sys.executable, "-m", "pipelines", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
    assert b"<html" in stored(emulator, "clean/report.html")[""]
    batches_are_those_on_disk(corpus.directory, f"{output}/shards/64", tmp_path / "cache")


def batches_are_those_on_disk(directory: Path, url: str, cache_directory: Path) -> None:
    """The loader, with the manifest and the shards from the bucket through its cache."""
    from loader.cache import ShardCache, read_object  # noqa: PLC0415
    from loader.shards import Shards  # noqa: PLC0415

    shards = Shards(directory / "shards/64")
    assert read_object(f"{url}/manifest.json") == (directory / "shards/64/manifest.json").read_bytes()
    with ShardCache(url, shards.files, str(cache_directory), 10_000_000, concurrent=2) as cache:
        direct, cached = shards.dataset(4).take(40), shards.dataset(4, cache=cache).take(40)
        compared = 0
        for one, other in zip(direct, cached, strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)
            compared += 1
    assert compared


def test_on_a_bad_network_the_bytes_are_the_same_and_nothing_is_done_twice(
    corpus: Corpus, proxy: Proxy, emulator: int
) -> None:
    seed = int(os.environ.get("TOKENMILL_FAULT_SEED", random.SystemRandom().randrange(10_000)))
    print(f"TOKENMILL_FAULT_SEED={seed}")
    # Each fault strikes each kind of request once, somewhere in its first requests (there are about thirty listings).
    chance = random.Random(seed)
    moments = {kind: dict(zip(chance.sample(range(28), len(FAULTS)), FAULTS, strict=True)) for kind in KINDS}
    seen: Counter[str] = Counter()
    struck: set[tuple[str, str]] = set()

    def choose(kind: str, name: str) -> str:
        fault = moments[kind].get(seen[kind], "") if kind in moments else ""
        seen[kind] += 1
        if fault:
            struck.add((kind, fault))
        return fault

    proxy.choose = choose
    output = f"{PREFIX}/bad"
    run(corpus.remote, output)
    assert struck == {(kind, fault) for kind in KINDS for fault in FAULTS}
    assert same_but_roots(hashes(emulator, output), corpus.made)
    done = [request.name.removeprefix("bad/") for request in proxy.requests if request == done_put(request)]
    assert [name for name, count in Counter(done).items() if count > 1] == [".lock"], f"seed {seed}"
    for name in corpus.made:  # a manifest comes after all it speaks of
        if not name.endswith("manifest.json"):
            folder = name.rsplit("/", 1)[0]
            assert f"{folder}/manifest.json" not in done[: done.index(name)], f"seed {seed}"


def done_put(request: Any) -> Any:
    """The request itself when it is a put that was done."""
    return request if request.kind == "put" and request.status == 200 else None


@pytest.mark.slow
def test_killed_in_every_stage_the_bytes_are_the_same(corpus: Corpus, proxy: Proxy, emulator: int) -> None:
    """Driver and workers die while the first file of a stage is on its way."""
    output = f"{PREFIX}/killed"
    for folder in ("documents/code/documents", "tokens/prose", "shards/64/train"):
        came, killed = threading.Event(), threading.Event()

        def choose(
            kind: str, name: str, folder: str = folder, came: threading.Event = came, killed: threading.Event = killed
        ) -> str:
            if kind != "put" or not name.startswith(f"killed/{folder}"):
                return ""
            came.set()
            killed.wait(120)
            return "drop"

        proxy.choose = choose
        process = subprocess.Popen(
            command(corpus.remote, output, "--direct_num_workers=2"), cwd=ROOT, stderr=subprocess.DEVNULL
        )
        assert came.wait(300), f"nothing was put to {folder}"
        for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        killed.set()
        process.wait()
    proxy.choose = lambda kind, name: ""
    run(corpus.remote, output)
    assert same_but_roots(hashes(emulator, output), corpus.made)


def test_what_a_run_says_of_a_bucket_that_is_not_there(corpus: Corpus, proxy: Proxy) -> None:
    made = subprocess.run(
        command(corpus.local, "gs://absent/run"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 2 and "there is no bucket absent" in made.stderr


def test_a_damaged_object_is_found_before_it_is_used(corpus: Corpus, proxy: Proxy, emulator: int) -> None:
    bucket = client_of(emulator).bucket(BUCKET)
    name = "documents/prose/documents-00000-of-00001.parquet"
    for path in corpus.made:  # a run that is finished up to its tokens, put there by other means
        if path.startswith(("config.yaml", "plan/", "documents/", "dedup/", "tokenizer/")):
            bucket.blob(f"damaged/{path}").upload_from_filename(corpus.directory / path)
    data = (corpus.directory / name).read_bytes()
    bucket.blob(f"damaged/{name}").upload_from_string(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    made = subprocess.run(
        command(corpus.local, f"{PREFIX}/damaged"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 1, made.stderr
    assert f"{name}: differs from what its manifest says (sha256)" in made.stderr
