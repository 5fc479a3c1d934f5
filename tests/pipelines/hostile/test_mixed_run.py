"""One run over everything a crawl may hold: each input has its end, and what lies beside it arrives whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.sources.paths import quote
from tests.pipelines.hostile import corpus
from tests.pipelines.hostile.runs import UNSHOWABLE, check_whole, command, kept, rejected, run, settings
from tests.pipelines.tiny import write_config

Call = Callable[..., tuple[int, str, str]]
Made = tuple[Path, Path, dict[str, corpus.Expected]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The corpus, a finished run over it as a subprocess, and what is expected of both."""
    folder = tmp_path_factory.mktemp("mixed")
    sources, expected = corpus.write(folder / "corpus")
    config = write_config(folder / "config.yaml", settings(sources))
    code, out, err = run(config, folder / "run")
    assert code == 0, out + err
    assert "Traceback" not in err and not UNSHOWABLE.search(out + err)
    return folder, folder / "run", expected


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """A command in this process, where an exception that escapes fails the test: (exit code, output, error)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        return main([str(argument) for argument in arguments]), *capfd.readouterr()

    return run


def test_every_reject_has_its_reason_and_place(made: Made) -> None:
    _, output, expected = made
    reasons = {place: reason for each in expected.values() for place, reason in each.reasons.items()}
    assert rejected(output) == reasons


def test_every_other_document_arrives_whole(made: Made) -> None:
    _, output, expected = made
    texts = {place: text for each in expected.values() for place, text in each.texts.items()}
    assert kept(output) == texts
    check_whole(output)


def test_no_file_of_the_run_but_the_texts_holds_what_a_terminal_obeys(made: Made) -> None:
    _, output, _ = made
    for path in output.rglob("*"):
        assert not UNSHOWABLE.search(str(path.relative_to(output)))
        if path.suffix in (".json", ".yaml"):
            assert not UNSHOWABLE.search(path.read_text())


def test_validate_status_report_and_inspect_show_nothing_a_terminal_obeys(made: Made) -> None:
    folder, output, _ = made
    for arguments, module in (
        (("validate", folder / "config.yaml"), "pipelines"),
        (("status", output), "pipelines"),
        (("report", output), "pipelines"),
        (("inspect", output), "loader"),
        (("inspect", "--json", output), "loader"),
    ):
        code, out, err = command(*arguments, module=module)
        assert code == 0 and err == "", err
        assert not UNSHOWABLE.search(out), ascii(out)
    page = (output / "report.html").read_text()
    assert not UNSHOWABLE.search(page)
    # All reasons of the listing, of reading and of decoding are named.
    assert {"linked_folder", "special_file", "lone_surrogate", "unsafe_path", "binary"} <= set(
        re.findall(r"\w+", page.replace("<wbr>", ""))
    )


NAMES = [b"caf\xe9.py", b"new\nline.py", b"\x1b[2J\x1b]0;title\x07.py", "c1\x9b31m.py".encode(), b"back\\slash\\x41.py"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_explained_as_it_is_and_as_it_is_shown(made: Made, call: Call, name: bytes) -> None:
    _, output, _ = made
    told = {call("explain", output, os.fsdecode(typed)) for typed in (name, quote(name).encode())}
    ((code, out, err),) = told
    assert code == 0 and err == "", err
    assert out.startswith(f"{quote(name)} (code/0/") and "kept: " in out
    assert not UNSHOWABLE.search(out), ascii(out)


@pytest.mark.parametrize("what", ["fifo.py", "latin1.py", "all.jsonl", "members.tar", "no_column.parquet"])
def test_a_container_and_a_reject_are_explained(made: Made, call: Call, what: str) -> None:
    _, output, expected = made
    for option in ((), ("--json",)):
        code, out, err = call("explain", output, what, *option)
        assert code == 0 and err == "", err
        assert not UNSHOWABLE.search(out), ascii(out)
    reasons = [reason for each in expected.values() for place, reason in each.reasons.items() if place.startswith(what)]
    assert reasons[0] in out


@pytest.mark.parametrize(
    "what", ["hash#7.py", "all.jsonl#0", "cut.tar#m0.py", "good.parquet#3", "members.tar#../../etc/escape"]
)
def test_a_place_is_explained(made: Made, call: Call, what: str) -> None:
    _, output, _ = made
    code, out, err = call("explain", output, what)
    assert code == 0 and err == "" and out.startswith(f"{what} ("), out + err


def test_a_name_that_is_not_there_is_one_clean_sentence(made: Made) -> None:
    _, output, _ = made
    code, out, err = command("explain", output, b"\x1b[31mno\xffwhere.py")
    assert code == 1 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert not UNSHOWABLE.search(err), ascii(err)


def test_metadata_of_a_document_is_kept_as_text(made: Made) -> None:
    _, output, _ = made
    import pyarrow.parquet as pq  # noqa: PLC0415

    (path,) = output.glob("documents/jsonl/documents-*.parquet")
    found = {
        row["source"]: dict(row["metadata"]) for row in pq.read_table(path, columns=["source", "metadata"]).to_pylist()
    }
    values = [row for row in found.values() if row]
    assert {"language": "\x1b[31mred\u202e\n"} in values and {"language": "half \\ud800"} in values
    assert any(len(row.get("n", "")) == 4001 for row in values)


def test_nothing_was_written_beside_the_run(made: Made) -> None:
    folder, _, _ = made
    assert sorted(os.listdir(folder)) == ["config.yaml", "corpus", "run"]
    assert json.loads((folder / "run" / "run.json").read_text())["attempts"] == 1
