import socket
import subprocess
import sys

import pytest

from pipelines.language import LANGUAGE_MODEL, code_language, natural_language


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("include/linux/list.h", "C"),
        ("kernel/sched/core.c", "C"),
        ("arch/x86/entry.S", "GAS"),
        ("Lib/abc.py", "Python"),
        ("README.md", "Markdown"),
        ("docs/notes.txt", "Text"),
        ("CMakeLists.txt", "CMake"),
        ("a.b/Makefile", "Makefile"),
        ("man/man1/ls.1", "Groff"),
        ("index.html", "HTML"),
        ("data.json", "JSON"),
        ("style.xsl", "XSLT"),
        ("lib/Foo.pm", "Perl"),
        ("x.tar.unheard_of", "unknown"),
        ("", "unknown"),
        ("folder.py/LICENSE", "unknown"),
    ],
)
def test_code_by_file_name(path, language):
    assert code_language(path) == language


def test_code_languages_do_not_depend_on_the_hash_seed():
    program = (
        "from pipelines.language import code_language as f, _file_names;"
        "n, s, p = _file_names(); print([f('x' + e) for e in sorted(s)], sorted(n.items()), p)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and b"Python" in outputs.pop()


TEXTS = {
    "en": "The committee met on Tuesday and decided to postpone the whole matter until the following spring.",
    "de": "Der Ausschuss trat am Dienstag zusammen und beschloss, die Angelegenheit zu vertagen.",
    "fr": "Le comité s'est réuni mardi et a décidé de reporter toute l'affaire au printemps prochain.",
    "es": "El comité se reunió el martes y decidió aplazar todo el asunto hasta la próxima primavera.",
    "ru": "Комитет собрался во вторник и решил отложить весь вопрос до следующей весны.",
    "zh": "委员会于星期二开会,决定将整个事项推迟到明年春天。",
    "ja": "委員会は火曜日に開かれ、この件をすべて来春まで延期することにしました。",
    "th": "คณะกรรมการประชุมเมื่อวันอังคารและตัดสินใจเลื่อนเรื่องทั้งหมดออกไป",
}


def test_prose_without_a_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    found = natural_language(list(TEXTS.values()))
    assert [language for language, _ in found] == list(TEXTS)
    assert all(0.5 < probability <= 1.0 for _, probability in found)


def test_lines_are_joined_and_long_texts_sampled_beyond_their_header():
    header = "This page is part of the manual. See the file COPYING for details.\n" * 3
    (language, _), (alike, _) = natural_language([header + (TEXTS["de"] + "\n\n") * 40, TEXTS["de"] * 40])
    assert language == alike == "de"


def test_texts_that_tell_nothing():
    assert natural_language([]) == []
    assert natural_language(["", " \n\t", "\ud800"]) == [("unknown", 0.0)] * 3
    assert len(natural_language(["\0", "x" * 1_000_000, "a\ud800b"])) == 3
    assert LANGUAGE_MODEL.startswith("lid.176.ftz")
