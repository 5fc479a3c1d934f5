"""`plan`: on a sample that is everything it is exact; on a part it is the part times the factor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import plan
from pipelines.cli import main
from pipelines.estimate.cost import SAMPLE, TRAIN, UTILISATION, Cost, cost
from pipelines.estimate.measure import Measured, Results, measure
from pipelines.estimate.sample import Sample, choose, unit_bytes
from schemas.config import Config, load_config
from schemas.manifest import ShardManifest, parse
from tests.pipelines.tiny import config_of, tiny_config, write_config


@pytest.fixture(scope="module")
def config(tiny_run: Path) -> Config:
    return load_config(tiny_run / "tiny/config.yaml")


@pytest.fixture(scope="module")
def everything(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, Results]:
    """The measurements on all units of the tiny corpus."""
    sample = choose(plan.make_plan(config), config, 1 << 40)
    return sample, measure(config, sample, str(tmp_path_factory.mktemp("plan") / "run"))


def cost_of(config: Config, everything: tuple[Sample, Results], hours: float = 24, hosts: int = 2) -> Cost:
    return cost(config, len(everything[0].plan.units), *everything, hosts, hours, 4)


def test_on_everything_it_says_what_the_run_makes(
    config: Config, everything: tuple[Sample, Results], tiny_run: Path
) -> None:
    assert set(everything[0].factors.values()) == {1.0}
    found = cost_of(config, everything)
    path = tiny_run / "run/shards/64/manifest.json"
    made = parse(ShardManifest, path.read_bytes(), str(path))
    (view,) = found.views
    train = made.splits.train
    assert (view.lanes, view.groups, view.rows, view.records) == (train.lanes, train.groups, train.rows, train.records)
    files = [*train.files, *(file for split in made.splits.validation.values() for file in split.files)]
    assert (view.shards, view.bytes) == (len(files), sum(file.bytes for file in files))
    assert view.shard_bytes == train.files[0].bytes
    assert found.kept == sum(part.documents for part in made.components.values())
    assert found.tokens == sum(part.tokens for part in made.components.values())
    stored = [p for kind in ("documents", "drops", "tokens") for p in (tiny_run / "run").rglob(f"{kind}-*.parquet")]
    rejected = list((tiny_run / "run").rglob("rejected-*.parquet"))
    assert found.stored_bytes >= sum(p.stat().st_size for p in stored)
    assert found.stored_bytes <= sum(p.stat().st_size for p in [*stored, *rejected])
    moved = {step.step: step.moved_bytes for step in found.steps}
    tokens = (view.records + sum(split.records for split in made.splits.validation.values())) * 65 * 2
    assert tokens < moved["shards 64"] < 1.6 * tokens  # with each record's place and its documents' spans
    assert {"ingest", "copies", "candidates", "drops", "sample", TRAIN, "tokenize", "pack 64"} <= moved.keys()
    assert all(step.cpu_hours >= 0 for step in found.steps) and found.cpu_hours > found.serial_hours > 0


def test_a_part_is_multiplied_by_its_components_factor(config: Config, everything: tuple[Sample, Results]) -> None:
    sample, found = everything
    steps = [
        Measured("ingest", "ingest", {"code": 2.0, "prose": 3.0}),
        Measured("dedup", "copies", {"": 4.0}, 1000, 10),
    ]
    steps.append(Measured("tokenizer", SAMPLE, {"code": 2.0, "prose": 3.0}))
    steps.append(Measured("tokenizer", TRAIN, {"": 5.0}))
    sample = replace(sample, factors={"code": 1000.0, "prose": 10.0}, chosen_bytes=100, all_bytes=5000)
    about = cost_of(config, (sample, replace(found, steps=steps, sampled_characters=1000)))
    hours = {step.step: step.cpu_hours * 3600 for step in about.steps}
    assert hours["ingest"] == pytest.approx(2 * 1000 + 3 * 10)
    # The tokenizer's sample is of 1,024 units: of code, which has two here and would have 2,000, about half.
    assert hours[SAMPLE] == pytest.approx(2 * 512 + 3 * 10)
    assert hours["copies"] == pytest.approx(4 * 50) and about.steps[1].moved_bytes == 50_000
    # Training takes sample_characters (20,000), however much there is.
    assert hours[TRAIN] == pytest.approx(5 * 20) and about.serial_hours * 3600 == pytest.approx(100)
    kept = {name: found.manifests["tokens", name].counts["kept"] for name in ("code", "prose")}
    assert about.kept == kept["code"] * 1000 + kept["prose"] * 10


def test_machines_follow_from_the_deadline(config: Config, everything: tuple[Sample, Results]) -> None:
    sample, found = everything
    steps = [Measured("ingest", "ingest", {"": 3600.0 * 560}), Measured("tokenizer", TRAIN, {"": 3600.0})]
    found = replace(found, steps=steps, sampled_characters=config.tokenizer.sample_characters)
    assert UTILISATION == 0.7
    machines = {hours: cost_of(config, (sample, found), hours).machines for hours in (11, 3, 1.1, 1, 0.5)}
    assert machines == {11: 20, 3: 100, 1.1: 2000, 1: None, 0.5: None}


def test_hosts_that_cannot_share_the_lanes_are_told(config: Config, everything: tuple[Sample, Results]) -> None:
    fit = {hosts: cost_of(config, everything, hosts=hosts).views[0] for hosts in (1, 2, 3)}
    assert [fit[hosts].hosts_fit for hosts in (1, 2, 3)] == [True, True, False]
    assert fit[3].lanes_for_hosts == 3


def test_the_sample_has_as_much_of_every_component_or_all_of_it(tiny_run: Path) -> None:
    content = tiny_config(tiny_run / "tiny")
    content["ingest"]["unit_bytes"] = 4_000
    config = config_of(content)
    whole = plan.make_plan(config)
    sizes = unit_bytes(whole, config)
    of_all = {name: sum(sizes[task] for task in tasks) for name, tasks in whole.by_component.items()}

    def chosen(wanted: int) -> dict[str, int]:
        sample = choose(whole, config, wanted)
        assert sample.plan == choose(whole, config, wanted).plan
        assert sample.all_bytes == sum(sizes) and sample.largest_unit == max(sizes)
        own = dict.fromkeys(of_all, 0)
        for name, tasks in sample.plan.by_component.items():
            units = [sample.plan.units[task] for task in tasks]
            assert [unit.unit for unit in units] == list(range(len(units)))
            own[name] = sum(part.stop - part.start for unit in units for part in unit.slices)
            assert sample.factors[name] * own[name] == pytest.approx(of_all[name])
        assert sample.chosen_bytes == sum(own.values())
        return own

    part = chosen(30_000)
    assert all(15_000 <= size < 15_000 + 4_000 for size in part.values()) and part.keys() == of_all.keys()
    more = chosen(of_all["prose"] * 2 + 5_000)
    assert more["prose"] == of_all["prose"] and of_all["prose"] + 5_000 <= more["code"] < of_all["code"]
    assert chosen(1 << 40) == of_all
    least = choose(whole, config, 1)
    assert {name: len(tasks) for name, tasks in least.plan.by_component.items()} == {"code": 1, "prose": 1}


def test_the_command(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = tiny_config(tiny_run / "tiny")
    content["tokenizer"]["vocab_size"] = 40_000  # more than so little text supports
    content["ingest"]["unit_bytes"] = 20_000
    config = str(write_config(tmp_path / "config.yaml", content))
    before = sorted(tmp_path.iterdir())
    assert main(["plan", config, "--sample", "0.05", "--hosts", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sampled_bytes"] < found["input_bytes"] and found["vocab_size"] < 40_000
    assert main(["plan", config, "--sample", "0.05", "--hosts", "3"]) == 0
    told = capsys.readouterr().out
    assert "3 hosts cannot share 2 lanes; set shard.lanes to 3" in told
    assert f"supports a vocabulary of {found['vocab_size']:,} only" in told
    assert sorted(tmp_path.iterdir()) == before
    assert main(["plan", config, "--hours", "0"]) == 2
    assert "--hours must be above 0" in capsys.readouterr().err
