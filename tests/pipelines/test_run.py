"""The command line's contract: exit codes, one-sentence errors, what is written and what is left alone.

What a refusal says is tried in this process, where an exception that escapes fails the test; whatever concerns
processes, signals and what a user's terminal shows runs as a command.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli import main
from pipelines.tokenizer import job as tokenizer_job
from tests.conftest import ROOT
from tests.pipelines.tiny import config_of, contents, context_of, tiny_config, words, write_config, write_tiny

ONE = "--direct_num_workers=1"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_tiny(folder)
    return folder


@pytest.fixture
def config(corpus: Path) -> dict[str, Any]:
    return copy.deepcopy(tiny_config(corpus))


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; shared, so tests copy it before they change anything."""
    output = tmp_path_factory.mktemp("finished") / "run"
    made = command(corpus / "config.yaml", output)
    assert made.returncode == 0, made.stderr
    return output


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def arguments(config: Path, output: Path, *options: str) -> list[str]:
    return ["run", str(config), "--output", str(output), ONE, *options]


def start(config: Path, output: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", *arguments(config, output, *options)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(config: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    process = start(config, output, *options)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """A command in this process: (exit code, standard output, standard error)."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of all that is in a folder, folders included."""
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.lstat().st_mtime_ns)
        for path in sorted([folder, *folder.rglob("*")])
    }


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def the_error(stderr: str) -> str:
    """The one line of an error."""
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and stderr.rstrip().endswith(lines[0]), stderr
    return lines[0]


# -- refusals ---------------------------------------------------------------------------------------------------------


def refused(call: Call, content: dict[str, Any], folder: Path, *options: str) -> str:
    """The sentence of a run that is refused; nothing is written."""
    output = folder / "output"
    code, _, err = call(*arguments(write_config(folder / "config.yaml", content), output, *options))
    assert code == 2
    assert not output.exists()
    return the_error(err)


def test_an_unknown_key(call, config, tmp_path):
    config["dedup"] = {"treshold": 0.8}
    told = refused(call, config, tmp_path)
    assert "unknown key dedup.treshold" in told and "'threshold'" in told and "config.yaml" in told


def test_weights_that_do_not_sum_to_one(call, config, tmp_path):
    config["components"]["code"]["weight"] = 0.8
    assert "components: the weights sum to 1.1, not 1 (code 0.8, prose 0.3)" in refused(call, config, tmp_path)


def test_a_path_that_is_not_there(call, config, tmp_path):
    config["components"]["code"]["sources"][0]["path"] = "/nowhere/at/all"
    assert "/nowhere/at/all: No such file or directory" in refused(call, config, tmp_path)


def test_a_source_that_matches_nothing(call, config, tmp_path):
    config["components"]["code"]["sources"][0]["include"] = ["**/*.cobol"]
    told = refused(call, config, tmp_path)
    assert "no file matches" in told and "**/*.cobol" in told


def test_threads_are_refused(call, config, tmp_path):
    told = refused(call, config, tmp_path, "--direct_running_mode=multi_threading")
    assert "multi_threading" in told and "use multi_processing" in told


@pytest.mark.parametrize(
    ("option", "meant"),
    [("--replace_from=shard", "--replace-from"), ("--direct_num_worker=1", "--direct_num_workers"), ("--zzz=3", "")],
)
def test_an_option_nobody_has(call, config, tmp_path, option, meant):
    told = refused(call, config, tmp_path, option)
    assert f"unknown option {option.split('=')[0]}" in told and meant in told


def test_a_given_tokenizer_that_is_none(call, config, tmp_path):
    config["tokenizer"] = {"model": str(tmp_path / "absent.model")}
    assert "absent.model: cannot be read" in refused(call, config, tmp_path)
    (tmp_path / "absent.model").write_bytes(b"no model")
    assert "not a SentencePiece model" in refused(call, config, tmp_path)


def test_replacing_a_stage_that_would_not_be_made_again(call, config, tmp_path):
    told = refused(call, config, tmp_path, "--stages=ingest", "--replace-from=shard")
    assert "--replace-from shard would delete what --stages ingest leaves undone" in told


@pytest.mark.parametrize("below", ["", "/below"])
def test_an_output_that_is_a_file(call, config, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    code, _, err = call(*arguments(write_config(tmp_path / "c.yaml", config), Path(str(tmp_path / "file") + below)))
    assert code == 2 and str(tmp_path / "file") in the_error(err)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_of_other_files(call, config, tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "thesis.tex").write_text("mine")
    before = state(tmp_path / "output")
    code, _, err = call(*arguments(write_config(tmp_path / "c.yaml", config), tmp_path / "output"))
    assert code == 2
    assert "holds files that are no run's (thesis.tex" in the_error(err) and "--output" in err
    assert state(tmp_path / "output") == before


def test_an_output_inside_of_a_source(call, config, tmp_path):
    output = Path(config["components"]["code"]["sources"][0]["path"]) / "run"
    code, _, err = call(*arguments(write_config(tmp_path / "c.yaml", config), output))
    assert code == 2 and "lies in" in the_error(err) and "components.code" in err
    assert not output.exists()


def test_a_refusal_as_a_command(config, tmp_path):
    config["sed"] = 1
    made = command(write_config(tmp_path / "config.yaml", config), tmp_path / "output")
    assert made.returncode == 2 and made.stdout == ""
    assert made.stderr.startswith("error: ") and made.stderr.count("\n") == 1 and "unknown key sed" in made.stderr


def test_a_component_of_which_nothing_is_left(config, tmp_path):
    config["quality"] = {"rules": True}
    config["components"]["code"]["quality"] = {"line_count": {"min": 1000}}
    output = tmp_path / "output"
    made = command(write_config(tmp_path / "config.yaml", config), output)
    assert made.returncode == 1 and "Traceback" not in made.stderr
    told = the_error(made.stderr)
    assert "components.code: nothing is left of 40 documents" in told and "line_count 40" in told
    assert "documents/code/rejected-" in told and list(output.glob("documents/code/rejected-*.parquet"))
    assert not (output / ".lock").exists()


# -- another config or listing over a run ------------------------------------------------------------------------------


CHANGES = [
    (("dedup", "threshold"), 0.9, "dedup.threshold: 0.8 -> 0.9", "dedup"),
    (("validation", "fraction"), 0.1, "validation.fraction: 0.05 -> 0.1", "shard"),
    (("components", "code", "fim_rate"), 0.5, "components.code.fim_rate: 0.0 -> 0.5", "tokenize"),
    (("seed",), 6, "seed: 5 -> 6", "tokenizer"),
    (("dedup", "permutations"), 128, "dedup.permutations: 256 -> 128", "ingest"),
    (("shard", "sequence_lengths"), [32], "shard.sequence_lengths: [64] -> [32]", "shard"),
]


def with_value(content: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    at = content
    for part in path[:-1]:
        at = at.setdefault(part, {})
    at[path[-1]] = value
    return content


@pytest.mark.parametrize(("path", "value", "told", "stage"), CHANGES)
def test_another_config_is_refused_before_anything_is_written(
    call, config, finished, tmp_path, path, value, told, stage
):
    before = state(finished)
    changed = write_config(tmp_path / "config.yaml", with_value(config, path, value))
    code, _, err = call(*arguments(changed, finished))
    assert code == 2
    assert told in err and f"The first stage affected is {stage}." in err and f"--replace-from {stage}" in err
    later = ["ingest", "dedup", "tokenizer", "tokenize", "shard", None]
    too_late = later[later.index(stage) + 1]
    if too_late:
        assert call(*arguments(changed, finished, "--replace-from", too_late))[0] == 2
    assert state(finished) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "code" / "new.py").write_text(words(7, 50)), "1 added (first: new.py)"),
        (lambda folder: (folder / "code" / "000.py").unlink(), "1 removed (first: 000.py)"),
        (lambda folder: (folder / "code" / "001.py").write_text("x = 1\n"), "1 of another size (first: 001.py)"),
    ],
)
def test_another_listing_is_refused_before_anything_is_written(call, corpus, finished, tmp_path, change, told):
    shutil.copytree(corpus, tmp_path / "corpus")
    config = write_config(tmp_path / "config.yaml", tiny_config(tmp_path / "corpus"))
    before = state(finished)
    assert call(*arguments(config, finished))[0] == 0  # the same listing under another root is the same run
    change(tmp_path / "corpus")
    between = state(finished)
    code, _, err = call(*arguments(config, finished))
    assert code == 2 and f"the inputs: {told}" in err and "--replace-from ingest" in err
    assert state(finished) == between
    shutil.copy(finished / "config.yaml", tmp_path / "kept.yaml")
    assert call(*arguments(write_config(tmp_path / "old.yaml", tiny_config(corpus)), finished))[0] == 0
    assert {name: data for name, (data, _) in state(finished).items()} == {n: d for n, (d, _) in before.items()}


@pytest.mark.slow
def test_replacing_from_a_stage_gives_the_bytes_of_a_fresh_run(call, config, copied, tmp_path):
    config["dedup"] = {"threshold": 0.9}
    config["shard"]["sequence_lengths"] = [32]
    changed = write_config(tmp_path / "config.yaml", config)
    ingested = (copied / "documents" / "code" / "manifest.json").stat().st_mtime_ns
    code, _, err = call(*arguments(changed, copied, "--replace-from", "dedup"))
    assert code == 0, err
    assert (copied / "documents" / "code" / "manifest.json").stat().st_mtime_ns == ingested
    assert call(*arguments(changed, tmp_path / "fresh"))[0] == 0
    assert contents(copied) == contents(tmp_path / "fresh")


def test_a_view_is_added_to_a_run(call, config, copied, tmp_path):
    config["shard"]["sequence_lengths"] = [64, 32]
    before = state(copied / "shards" / "64")
    code, _, err = call(*arguments(write_config(tmp_path / "config.yaml", config), copied))
    assert code == 0, err
    assert state(copied / "shards" / "64") == before
    assert json.loads((copied / "shards" / "32" / "manifest.json").read_text())["sequence_length"] == 32
    assert yaml.safe_load((copied / "config.yaml").read_text())["shard"]["sequence_lengths"] == [64, 32]


def test_a_second_run_has_nothing_to_do(call, corpus, finished):
    before = contents(finished), (finished / "run.json").read_bytes()
    code, out, err = call(*arguments(corpus / "config.yaml", finished))
    assert code == 0 and err == ""
    assert out == f"{finished}: nothing to do, everything is there\n"
    assert (contents(finished), (finished / "run.json").read_bytes()) == before


def test_what_other_versions_made_is_refused(call, corpus, copied):
    manifest = copied / "dedup" / "code" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"fingerprint": "', '"fingerprint": "0', 1))
    before = state(copied)
    code, _, err = call(*arguments(corpus / "config.yaml", copied))
    assert code == 2 and "dedup was done here by other versions" in err and "--replace-from dedup" in err
    assert state(copied) == before


def test_a_second_run_notices_a_shard_that_is_gone(call, corpus, copied):
    shard = next((copied / "shards" / "64").glob("train-*.tfrecord"))
    shard.unlink()
    code, _, err = call(*arguments(corpus / "config.yaml", copied))
    assert code == 1 and shard.name in err and "is missing" in err and "--replace-from shard" in err


# -- who may write -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_runs_at_once_and_a_killed_one(call, corpus, finished, tmp_path):
    output = tmp_path / "output"
    config = corpus / "config.yaml"
    first = start(config, output)
    try:
        wait_for((output / "documents").exists, first)
        first.send_signal(signal.SIGSTOP)  # its process is alive; that is what counts
        owner = json.loads((output / ".lock").read_text())
        assert owner["pid"] == first.pid
        second = command(config, output)
        assert second.returncode == 2
        told = the_error(second.stderr)
        assert owner["run_id"] in told and f"process {first.pid} on {socket.gethostname()}" in told
        code, out, _ = call("status", output)
        assert code == 0 and f"run {owner['run_id']} (process {first.pid} on {socket.gethostname()}) holds" in out
    finally:
        first.kill()
        first.communicate()
    assert (output / ".lock").exists()
    assert "held the directory and is gone" in call("status", output)[1]
    code, _, err = call(*arguments(config, output))
    assert code == 0, err
    assert contents(output) == contents(finished)


@pytest.mark.parametrize(
    ("host", "pid", "age", "taken"),
    [
        (None, 2**22 + 1, 0.0, True),  # this machine, a process that is not there
        (None, 1, 0.0, True),  # this machine, a process that began at another time
        ("elsewhere", 1, 1000.0, True),
        ("elsewhere", 1, 5.0, False),
    ],
)
def test_a_stale_lock_is_taken_over(call, corpus, copied, host, pid, age, taken):
    owner = {"run_id": "before", "host": host or socket.gethostname(), "pid": pid, "started": 1.0}
    (copied / ".lock").write_text(json.dumps(owner | {"heartbeat": time.time() - age}))
    code, _, err = call(*arguments(corpus / "config.yaml", copied))
    assert code == (0 if taken else 2)
    assert (copied / ".lock").exists() == (not taken)
    if not taken:
        assert f"run before (process {pid} on {host}) is at work" in the_error(err)


@pytest.mark.slow
def test_interrupted_it_leaves_no_lock_and_goes_on(call, corpus, finished, tmp_path):
    output = tmp_path / "output"
    process = start(corpus / "config.yaml", output)
    wait_for((output / "documents" / "prose" / "manifest.json").exists, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        stderr.rstrip().endswith("interrupted; the same command goes on from what is done")
        and "Traceback" not in stderr
    )
    assert not (output / ".lock").exists() and not list(output.rglob(".tmp-*"))
    ingested = state(output / "documents")
    assert call(*arguments(corpus / "config.yaml", output))[0] == 0
    assert state(output / "documents") == ingested
    assert contents(output) == contents(finished)


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 16 MB, which only root can make."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if (
        os.geteuid() != 0
        or not shutil.which("mount")
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("needs root and mount to make a small filesystem")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_but(disk: Path, free: int) -> Path:
    """Fill a filesystem up to `free` bytes."""
    room = os.statvfs(disk)
    filler = disk / "filler"
    with filler.open("wb") as file:
        left = room.f_bavail * room.f_frsize - free
        while left > 0:
            left -= file.write(b"\0" * min(left, 1 << 20))
    return filler


@pytest.mark.parametrize("free", [0, 200_000])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(call, corpus, finished, small_disk, free):
    filler = fill_but(small_disk, free)
    output = small_disk / "output"
    code, _, err = call(*arguments(corpus / "config.yaml", output))
    assert code == 1
    told = the_error(err)
    assert "the disk is full" in told and "the same command" in told and str(output) in told
    assert not (output / ".lock").exists() and not list(output.rglob(".tmp-*"))
    filler.unlink()
    code, _, err = call(*arguments(corpus / "config.yaml", output))
    assert code == 0, err
    assert contents(output) == contents(finished)


# -- status and validate ----------------------------------------------------------------------------------------------


def test_status_of_a_finished_run(call, finished):
    code, out, err = call("status", finished)
    assert code == 0 and err == ""
    lines = [line.split() for line in out.splitlines()]
    assert [line[:2] for line in lines[1:6]] == [
        [stage, "done"] for stage in ("ingest", "dedup", "tokenizer", "tokenize", "shard")
    ]
    assert "60 documents kept, 0 rejected" in out and "320 ids" in out and "views 64" in out
    assert "everything is done" in out


def test_status_of_half_a_run(call, copied):
    shutil.rmtree(copied / "tokens")
    shutil.rmtree(copied / "shards")
    before = state(copied)
    code, out, _ = call("status", copied)
    assert code == 0
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert lines["tokenizer"][0] == "done" and lines["tokenize"] == ["next"] and lines["shard"] == ["to", "do"]
    assert f"next: python -m pipelines run CONFIG --output {copied}" in out.replace("\n", " ").replace("  ", " ")
    assert state(copied) == before


def test_status_of_what_is_no_run(call, tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        code, _, err = call("status", path)
        assert code == 2 and f"{path}: no run here" in the_error(err)


def test_status_of_a_run_without_a_plan(call, copied):
    shutil.rmtree(copied / "plan")
    code, _, err = call("status", copied)
    assert code == 2 and "before it had a plan" in the_error(err)


def test_validate_lists_what_would_be_read_and_writes_nothing(call, corpus, config, tmp_path):
    before = state(corpus)
    code, out, err = call("validate", corpus / "config.yaml")
    assert code == 0 and err == ""
    flat = " ".join(out.split())
    assert "is valid: 3 units, sequence lengths 64, a tokenizer of 320 ids to be trained." in flat
    assert state(corpus) == before
    config["components"]["prose"]["sources"][0]["path"] = "/nowhere.jsonl"
    code, _, err = call("validate", write_config(tmp_path / "config.yaml", config))
    assert code == 2 and "/nowhere.jsonl" in the_error(err)


# -- stages one at a time ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_few_stages_at_a_time_write_the_same_bytes(call, corpus, finished, tmp_path):
    output = tmp_path / "output"
    for stages in ("ingest", "dedup,tokenizer,tokenize", "shard"):
        code, _, err = call(*arguments(corpus / "config.yaml", output, "--stages", stages))
        assert code == 0, err
    assert contents(output) == contents(finished)


def test_a_stage_without_the_one_before_is_one_sentence(call, corpus, tmp_path):
    code, _, err = call(*arguments(corpus / "config.yaml", tmp_path / "output", "--stages", "tokenize"))
    assert code == 1 and "this stage is not finished; run it first" in the_error(err)


def test_killed_while_it_trains_the_tokenizer_is_trained_by_the_next_run(finished, config, copied, monkeypatch):
    for later in ("tokenizer", "tokens", "shards"):
        shutil.rmtree(copied / later)

    def killed(*_: object) -> bytes:
        raise MemoryError

    with context_of(config_of(config), copied) as context:
        with monkeypatch.context() as patched, pytest.raises(Exception, match="MemoryError"):
            patched.setattr(tokenizer_job, "train", killed)
            tokenizer_job.run(context)
        assert not (copied / "tokenizer").exists()
        tokenizer_job.run(context)
    assert (copied / "tokenizer" / "tokenizer.model").read_bytes() == (
        finished / "tokenizer" / "tokenizer.model"
    ).read_bytes()


def altered(path: Path) -> None:
    """Change one bit in the middle of a file; its size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DOCUMENTS = "documents/code/documents-00000-of-00002.parquet"
TAMPERED = [
    (DOCUMENTS, "dedup", "ingest", Path.unlink),
    (DOCUMENTS, "dedup", "ingest", altered),
    ("dedup/code/drops-00001-of-00002.parquet", "tokenizer", "dedup", Path.unlink),
    ("dedup/code/drops-00001-of-00002.parquet", "tokenizer", "dedup", altered),
    ("tokenizer/tokenizer.model", "tokenize", "tokenizer", altered),
    ("tokens/prose/tokens-00000-of-00001.parquet", "shard", "tokenize", altered),
]


@pytest.mark.parametrize(("name", "stage", "made_by", "how"), TAMPERED)
def test_an_altered_input_of_a_stage_is_named(call, corpus, copied, name, stage, made_by, how):
    folders = {"dedup": "dedup", "tokenizer": "tokenizer", "tokenize": "tokens", "shard": "shards"}
    for later in list(folders)[list(folders).index(stage) :]:
        shutil.rmtree(copied / folders[later])
    how(copied / name)
    code, _, err = call(*arguments(corpus / "config.yaml", copied))
    assert code == 1
    told = the_error(err)
    assert str(copied / name) in told and f"--replace-from {made_by}" in told
    assert not list(copied.glob("shards/*/train-*"))
