"""What a run whose context is extended in stages came to: a table, and plots of losses and retrieval.

    python benchmarks/context_extension.py runs/context_training [--pictures FOLDER]

Reads what the run wrote before and after each stage (docs/context_extension.md#before-and-after). Prints a line an
evaluation: losses by length, how far they are from those at the end of the stage before, and the share of pass keys
found, with that of the worst depth; then the loss of each component by position.
Writes context_loss.svg and context_retrieval.svg to FOLDER.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a checkout need not be installed

from matplotlib.figure import Figure

from trainer.evaluation.plots import draw_curve, draw_grid, finish_losses, svg
from trainer.evaluation.results import ByPosition, Retrieval
from trainer.exchange import CONFIG

Views = dict[int, dict[str, Any]]


def evaluations(output: Path) -> dict[str, Views]:
    """By what was evaluated, in order: the views of an evaluation by their length."""
    places = {"before": output / "evaluation.json"}
    for stage in yaml.safe_load((output / CONFIG).read_text(encoding="utf-8"))["stages"]:
        folder = output / "stages" / stage["name"]
        places[f"{stage['name']} begins"] = folder / "evaluation_begin.json"
        places[f"{stage['name']} ends"] = folder / "evaluation.json"
    found = {}
    for name, path in places.items():
        if not path.exists():
            raise SystemExit(f"{path} is not there: give a run with stages and `evaluation`, which has come to its end")
        views = json.loads(path.read_text(encoding="utf-8"))["views"]
        found[name] = {view["sequence_length"]: view for view in views}
    return found


def head(cells: list[str]) -> None:
    """Of a table, the first column of which has no name."""
    print("| | " + " | ".join(cells) + " |")
    print("|---" * (len(cells) + 1) + "|")


def table(found: dict[str, Views]) -> None:
    """A line an evaluation."""
    lengths = list(next(iter(found.values())))
    heads = [f"loss at {length:,}" for length in lengths] + [f"keys at {length:,}" for length in lengths]
    head(heads)
    base = found["before"]
    for name, views in found.items():
        losses = [f"{views[n]['loss']:.3f} ({views[n]['loss'] / base[n]['loss'] - 1:+.1%})" for n in lengths]
        base = base if name.endswith("begins") else views
        grids = [views[n]["retrieval"]["found"] for n in lengths]
        keys = [f"{sum(grid) / len(grid):.0%} ({min(grid):.0%})" if grid else "not measured" for grid in grids]
        print(f"| {name} | " + " | ".join(losses + keys) + " |")


def positions(found: dict[str, Views]) -> None:
    """Losses by position at the longest length."""
    length = max(next(iter(found.values())))
    for component in next(iter(found.values()))[length]["components"]:
        curves = {name: views[length]["components"][component]["by_position"] for name, views in found.items()}
        edges = next(iter(curves.values()))["edges"]
        print(f"\n{component}, length {length:,}; nats a label, from position:")
        head([f"{edge:,}" for edge in edges[:-1]])
        for name, curve in curves.items():
            cells = ("" if loss is None else f"{loss:.2f}" for loss in curve["loss"])
            print(f"| {name} | " + " | ".join(cells) + " |")


def draw(found: dict[str, Views], folder: Path) -> None:
    """The two pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = list(next(iter(found.values())))
    components = list(next(iter(found.values()))[lengths[-1]]["components"])
    figure = Figure(figsize=(3.4 * len(components), 3.2), layout="constrained")
    for axes, component in zip(figure.subplots(1, len(components), squeeze=False)[0], components, strict=True):
        for name, views in found.items():
            if not name.endswith("begins"):
                curve = ByPosition(**views[lengths[-1]]["components"][component]["by_position"])
                draw_curve(axes, curve, linewidth=1.2, label=name)
        finish_losses(axes, lengths[-1])
        axes.set_title(f"{component}, length {lengths[-1]:,}")
    (folder / "context_loss.svg").write_text(svg(figure) + "\n", encoding="utf-8")
    figure = Figure(figsize=(2.6 * len(found), 3.6), layout="constrained")
    for axes, (name, views) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        draw_grid(axes, [Retrieval(**views[length]["retrieval"]) for length in lengths])
        axes.set_title(name)
    (folder / "context_retrieval.svg").write_text(svg(figure) + "\n", encoding="utf-8")


def main() -> None:
    """As the module's docstring says."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("output", type=Path)
    options.add_argument("--pictures", type=Path)
    chosen = options.parse_args()
    found = evaluations(chosen.output)
    table(found)
    positions(found)
    if chosen.pictures:
        draw(found, chosen.pictures)


if __name__ == "__main__":
    main()
