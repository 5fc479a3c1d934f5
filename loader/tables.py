"""The facts of `inspect` as tables for people: at most 80 columns, plain text where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

Facts = dict[str, Any]


def show(facts: Facts, console: Console) -> None:
    """Print the facts of `inspect`."""
    page = _Page(console)
    if facts["kind"] == "view":
        page.line(f"{facts['path']}: a view of {facts['sequence_length']} tokens a sequence")
        page.view(facts)
        page.documents(facts["conservation"]["documents"])
    elif facts["kind"] == "stage":
        page.stage(facts)
    else:
        page.run(facts)


class _Page:
    """Prints one thing after another."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: Iterable[list[str]]) -> None:
        """A table: the first column is text, the others are numbers."""
        shape = box.SIMPLE_HEAD if self._console.is_terminal else None
        table = Table(title=title, title_justify="left", title_style="bold", box=shape, padding=(0, 1), pad_edge=False)
        for at, name in enumerate(columns):
            table.add_column(name, justify="right" if at else "left", no_wrap=at > 0, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.line("")
        self._console.print(table, highlight=False)

    def run(self, facts: Facts) -> None:
        """A run."""
        self.line(f"{facts['path']}: a run")
        self.line("  " + ", ".join(f"{folder} {decimal(size)}" for folder, size in facts["bytes"].items()))
        if facts["tokenizer"]:
            self.tokenizer(facts["tokenizer"])
        for name in facts["unfinished"]:
            self.line(f"  not finished: {name}")
        for alarm in facts["alarms"]:
            self.line(f"  ALARM: {alarm}")
        if facts["documents"]:
            self.funnel(facts["documents"])
        for name, view in facts["views"].items():
            self.line("")
            self.line(f"== view {name}: {view['sequence_length']} tokens a sequence")
            self.view(view)

    def funnel(self, components: Facts) -> None:
        """Documents of a run, from the sources to what was tokenized."""
        rows = []
        for name, c in components.items():
            rejected, dropped = sum(c["rejected"].values()), sum(c["dropped"].values())
            numbers = [
                _count(c["in"]),
                _count(rejected),
                _count(dropped),
                _count(c["kept"]),
                _share(c["kept"], c["in"]),
            ]
            rows.append([name, *numbers, "" if c["tokens"] is None else _count(c["tokens"])])
        self.table("documents", ["component", "in", "rejected", "dropped", "kept", "kept %", "tokens"], rows)
        reasons = [
            (name, kind, reason, count, c["in"])
            for name, c in components.items()
            for kind in ("rejected", "dropped")
            for reason, count in sorted(c[kind].items(), key=lambda item: (-item[1], item[0]))
        ]
        if reasons:
            rows = [
                [f"{n}: {reason}", kind, _count(count), _share(count, of)] for n, kind, reason, count, of in reasons
            ]
            self.table("removed, by reason", ["component: reason", "", "documents", "% of in"], rows)

    def view(self, view: Facts) -> None:
        """One view."""
        order, splits = view["order"], view["splits"]
        self.line(
            f"  {order['lanes']} lanes x {order['groups']} groups x {order['rows']} rows, packing {view['packing']}, "
            f"{view['token_dtype']}, seed {order['seed']}"
        )
        self.line(f"  shards {decimal(view['bytes']['shards'])}, provenance {decimal(view['bytes']['provenance'])}")
        self.tokenizer(view["tokenizer"])
        rows = [["train", *_split(splits["train"])]]
        rows += [[f"validation: {name}", *_split(split)] for name, split in splits["validation"].items()]
        self.table("splits", ["split", "records", "files", "bytes"], rows)
        parts = view["components"]
        rows = [
            [
                name,
                f"{c['requested']:.4g}",
                f"{c['realised']:.4g}",
                _count(c["records"]),
                f"{100 * c['token_share']:.2f} %",
            ]
            for name, c in parts.items()
        ]
        self.table("mixture of the train split", ["component", "requested", "realised", "records", "of tokens"], rows)
        if view["mixture_error"] is not None:
            held = f"{view['mixture_error']:.2f} records (computed)"
            self.line(f"in every prefix of the order, shares are held to within {held}")
        columns = ["documents", "tokens", "available", "used", "unused", "repeats"]
        rows = [[name, *(_count(c[column]) for column in columns)] for name, c in parts.items()]
        self.table("packed sequences", ["component", *columns], rows)
        self.tokens(view["conservation"]["tokens"])

    def documents(self, documents: Facts) -> None:
        """The documents' law of a view."""
        into = documents["in"]
        rows = [["in", _count(into), ""], ["kept", _count(documents["kept"]), _share(documents["kept"], into)]]
        for kind in ("dropped", "rejected"):
            for reason, count in sorted(documents[kind].items(), key=lambda item: (-item[1], item[0])):
                if count:
                    rows.append([f"{kind}: {reason}", _count(count), _share(count, into)])
        self.table("documents of all components", ["", "documents", "% of in"], rows)

    def tokens(self, tokens: Facts) -> None:
        """The tokens' laws of a view."""
        encoded = tokens["encoded"]
        places = tokens["in_records"] + tokens["repeated"] + tokens["padding"]
        rows = [["encoded", _count(encoded), ""]]
        rows += [[name, _count(tokens[name]), _share(tokens[name], encoded)] for name in ("in_records", "unused")]
        self.table("tokens of all components", ["", "tokens", "% of encoded"], rows)
        rows = [["all", _count(places), ""]]
        rows += [
            [name, _count(tokens[name]), _share(tokens[name], places)] for name in ("in_records", "repeated", "padding")
        ]
        self.table("places in records", ["", "tokens", "% of places"], rows)

    def stage(self, facts: Facts) -> None:
        """One stage's folder."""
        of = f" of {facts['component']}" if facts["component"] else ""
        self.line(f"{facts['path']}: stage {facts['stage']}{of}")
        self.line(f"  {facts['units']} units, {facts['files']} files, {decimal(facts['bytes'])}")
        for alarm in facts["alarms"]:
            self.line(f"  ALARM: {alarm}")
        self.table("counts", ["", "count"], [[name, _count(count)] for name, count in facts["counts"].items()])

    def tokenizer(self, facts: Facts) -> None:
        """One line about the tokenizer."""
        ids = f"begin {facts['begin']}, end {facts['end']}, pad {facts['pad']}"
        self.line(f"  tokenizer {facts['fingerprint'][:16]}, {_count(facts['vocab_size'])} ids, {ids}")


def _split(split: Facts) -> list[str]:
    return [_count(split["records"]), _count(split["files"]), decimal(split["bytes"])]


def _count(n: int) -> str:
    return f"{n:,}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else ""
