"""Configs: what is refused and in which words, what is filled in, and that nothing is lost on the way to disk."""

import copy
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.config import Bounds, load_config, parse_config
from schemas.errors import Refused
from schemas.rules import RULES

CORE = """
seed: 17
components:
  code:             {weight: 0.87, sources: [{path: /data/src, format: files, include: ["**/*.py", "**/*.c"]}]}
  natural_language: {weight: 0.13, max_repeats: 4, sources: [{path: /data/*.jsonl.zst, format: jsonl, text: text}]}
tokenizer: {vocab_size: 32000}
dedup:     {threshold: 0.8}
shard:     {sequence_lengths: [4096], packing: best_fit, lanes: 16, shard_bytes: 134217728}
validation: {fraction: 0.001}
"""
SOURCE = ("components", "code", "sources", 0)
RULE = ("components", "code", "quality", "line_count")


def changed(path, value):
    """The core example with one value put at a path."""
    content = yaml.safe_load(CORE)
    at = content
    for part in path[:-1]:
        at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
    at[path[-1]] = value
    return content


def refusal(content):
    with pytest.raises(Refused) as caught:
        parse_config(content, "my.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        # keys that do not exist
        (("sed",), 1, ["unknown key sed;", "did you mean 'seed'?", "tokenize, shard, validation"]),
        (("dedup", "treshold"), 0.8, ["unknown key dedup.treshold;", "'threshold'", "permutations, bands, shingle"]),
        (("components", "code", "wait"), 1, ["unknown key components.code.wait", "weight, kind, sources, max_repeats"]),
        ((*SOURCE, "txt"), "a", ["unknown key components.code.sources.0.txt;", "'text'", "path, format, include"]),
        ((*RULE, "mx"), 5, ["unknown key components.code.quality.line_count.mx", "(allowed here: min, max)"]),
        (("quality", "rule"), False, ["unknown key quality.rule;", "(allowed here: rules)"]),
        # values of another type
        (("seed",), "x", ["seed: Input should be a valid integer (given: 'x')"]),
        (("seed",), 1.5, ["seed: Input should be a valid integer (given: 1.5)"]),
        (("shard", "lanes"), "16", ["shard.lanes: Input should be a valid integer (given: '16')"]),
        (("shard", "lanes"), True, ["shard.lanes: Input should be a valid integer (given: True)"]),
        (("shard", "lanes"), None, ["shard.lanes: Input should be a valid integer (given: None)"]),
        (("shard", "sequence_lengths"), 4096, ["shard.sequence_lengths: Input should be a valid array"]),
        (("dedup", "threshold"), "high", ["dedup.threshold: Input should be a valid number (given: 'high')"]),
        (("dedup", "enabled"), 1, ["dedup.enabled: Input should be a valid boolean (given: 1)"]),
        (("dedup",), [], ["dedup: Input should be an object"]),
        (("components", "code"), None, ["components.code: Input should be an object"]),
        (("components", "code", "sources"), "/data", ["components.code.sources: Input should be a valid array"]),
        (("components", "code", "weight"), "much", ["components.code.weight", "decimal", "'much'"]),
        (("components", "code", "weight"), True, ["components.code.weight", "decimal", "True"]),
        (("components", "code", "weight"), None, ["components.code.weight", "decimal", "None"]),
        ((*RULE[:-1], "line_count"), 5, ["components.code.quality.line_count: ", "min, max", "or false", "5"]),
        ((*RULE[:-1], "line_count"), True, ["components.code.quality.line_count: ", "min, max", "or false", "True"]),
        ((*RULE, "max"), "many", ["components.code.quality.line_count.max: ", "valid number", "'many'"]),
        ((*SOURCE, "labels"), {"year": 1999}, ["components.code.sources.0.labels.year: ", "valid string", "1999"]),
        # values out of range
        (("seed",), -1, ["seed: ", "greater than or equal to 0", "-1"]),
        (("seed",), 1 << 63, ["seed: ", "less than 9223372036854775808"]),
        (("dedup", "threshold"), 1.5, ["dedup.threshold: ", "less than or equal to 1", "1.5"]),
        (("dedup", "threshold"), 0, ["dedup.threshold: ", "greater than 0"]),
        (("validation", "fraction"), 1, ["validation.fraction: ", "less than 1"]),
        (("ingest", "unit_bytes"), 10, ["ingest.unit_bytes: ", "greater than or equal to 1024", "10"]),
        (("tokenizer", "vocab_size"), 5, ["tokenizer.vocab_size: ", "greater than or equal to 300"]),
        (("shard", "packing"), "tight", ["shard.packing: ", "'best_fit' or 'concat'", "'tight'"]),
        (("shard", "sequence_lengths"), [4096, 8], ["shard.sequence_lengths.1: ", "equal to 16", "8"]),
        (("shard", "sequence_lengths"), [], ["shard.sequence_lengths: ", "at least 1 item"]),
        (("shard", "sequence_lengths"), [64, 64], ["shard.sequence_lengths: ", "listed twice"]),
        (("dedup", "keep"), ["size"], ["dedup.keep.0: ", "'source_priority', 'quality', 'length' or 'id'", "'size'"]),
        (("dedup", "keep"), ["id", "id"], ["dedup: keep names a key twice"]),
        (("components",), {}, ["components: ", "at least 1 item"]),
        (("components", "code", "sources"), [], ["components.code.sources: ", "at least 1 item"]),
        (("components", "code", "weight"), 0, ["components.code.weight: ", "greater than 0"]),
        (("components", "code", "weight"), float("nan"), ["components.code.weight: ", "finite"]),
        (("components", "code", "max_repeats"), 0, ["components.code.max_repeats: ", "greater than or equal to 1"]),
        ((*SOURCE, "format"), "zip", ["components.code.sources.0.format: ", "'files', 'jsonl', 'parquet' or 'tar'"]),
        # values that do not fit each other
        (("components", "code", "weight"), 0.5, ["components: the weights sum to 0.63, not 1", "code 0.5", "0.13"]),
        (("components", "code", "weight"), 0.8700001, ["components: the weights sum to 1.0000001, not 1"]),
        (("dedup", "bands"), 7, ["dedup: bands (7) must divide permutations (256)"]),
        (("dedup", "permutations"), 250, ["dedup: bands (32) must divide permutations (250)"]),
        ((*SOURCE, "text"), "body", ["components.code.sources.0: text names a column", "format 'files'"]),
        # names
        ((*RULE[:-1], "line_cuont"), False, ["unknown quality rule 'line_cuont'; did you mean line_count"]),
        ((*RULE[:-1], "zzz"), False, ["unknown quality rule 'zzz'", *RULES]),
    ],
)  # fmt: skip
def test_one_sentence_names_the_file_the_key_and_what_is_allowed(path, value, told):
    sentence = refusal(changed(path, value))
    assert sentence.startswith("my.yaml: ")
    assert "\n" not in sentence
    for part in told:
        assert part in sentence


def test_a_component_may_be_called_like_a_section():
    content = changed(
        ("components", "tokenizer"), {"weight": 0.1, "wait": 1, "sources": [{"path": "x", "format": "tar"}]}
    )
    assert "unknown key components.tokenizer.wait; did you mean 'weight'?" in refusal(content)


def test_names_of_components_are_plain():
    content = changed(("components", "Code"), {"weight": 0.1, "sources": [{"path": "x", "format": "tar"}]})
    assert "components.Code: String should match pattern" in refusal(content)


def test_every_problem_has_its_own_line():
    content = changed(("sed",), 1)
    content["dedup"]["threshold"] = 2
    lines = refusal(content).splitlines()
    assert len(lines) == 2 and all(line.startswith("my.yaml: ") for line in lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "cannot be read as YAML: "),
        ("- a\n- b\n", "a config is a mapping of keys; this holds list"),
        ("", "a config is a mapping of keys; this holds NoneType"),
        ("just words", "a config is a mapping of keys; this holds str"),
        ("seed: 1\nseed: 2\n", "the key 'seed' stands twice"),
        ("components: {code: {weight: 1, weight: 2}}", "the key 'weight' stands twice"),
        ("seed: &a [*a]", "holds itself by an alias"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read as YAML: "),
        ("2020-01-01: 5", "a key that is no text"),
        ("a: \x00", "cannot be read as YAML: "),
    ],
)
def test_what_is_no_config_is_refused_by_name(tmp_path, text, told):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(Refused) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ") and told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_other_bytes_are_refused_by_name(tmp_path):
    (tmp_path / "latin1.yaml").write_bytes(b"# caf\xe9\n")
    for name, told in (("none.yaml", "no such config file"), ("", "cannot be read"), ("latin1.yaml", "cannot be read")):
        with pytest.raises(Refused, match=told) as caught:
            load_config(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_a_mapping_of_yaml_may_be_merged(tmp_path):
    path = tmp_path / "my.yaml"
    shared = "{weight: 0.5, sources: [{path: /a, format: tar}]}"
    path.write_text(
        f"components:\n  code: &c {shared}\n  prose:\n    <<: *c\n    sources: [{{path: /b, format: tar}}]\n"
    )
    assert load_config(path).components["prose"].sources[0].path == "/b"


# -- defaults and the round trip --------------------------------------------------------------------------------------


def load_text(folder, text):
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_the_core_example_loads_with_every_default(tmp_path):
    config = load_text(tmp_path, CORE)
    code, prose = config.components["code"], config.components["natural_language"]
    assert (code.weight, prose.weight) == (Decimal("0.87"), Decimal("0.13"))
    assert (code.kind, prose.kind) == ("code", "natural_language")
    assert (code.max_repeats, prose.max_repeats, code.fim_rate) == (1, 4, 0.0)
    assert code.sources[0].include == ("**/*.py", "**/*.c") and prose.sources[0].include == ("**",)
    dedup = config.dedup
    assert (dedup.enabled, dedup.threshold, dedup.permutations, dedup.bands, dedup.shingle) == (True, 0.8, 256, 32, 5)
    assert dedup.keep == ("source_priority", "quality", "length", "id")
    assert config.shard.shuffle == "files" and config.tokenizer.model is None and config.quality.rules
    shortest = yaml.safe_load(CORE)
    assert parse_config({"components": shortest["components"]}, "short") == config


def test_rules_in_force_are_the_defaults_of_the_kind_with_the_configs_bounds():
    content = changed((*RULE[:-1], "line_count"), {"max": 10})
    content["components"]["code"]["quality"] |= {
        "comment_ratio": False,
        "data_file_lines": {"max": 9},
        "word_count": {"min": 1},
    }
    config = parse_config(content, "my.yaml")
    bounds = config.rule_bounds("code")
    assert bounds["line_count"] == Bounds(max=10) and bounds["data_file_lines"] == Bounds(max=9)
    assert not {"comment_ratio", "word_count"} & bounds.keys()
    assert bounds["mean_line_length"] == Bounds(min=RULES["mean_line_length"].min, max=RULES["mean_line_length"].max)
    assert list(bounds) == [name for name in RULES if name in bounds]
    assert all(RULES[name].default for name in config.rule_bounds("natural_language"))
    content["quality"] = {"rules": False}
    assert parse_config(content, "my.yaml").rule_bounds("code") == {}


def test_the_demo_config_round_trips(tmp_path):
    config = load_config(Path(__file__).parents[2] / "configs" / "demo.yaml")
    assert load_text(tmp_path, config.dump_yaml()) == config


@st.composite
def configs(draw):
    content = copy.deepcopy(yaml.safe_load(CORE))
    share = draw(st.integers(1, 999))
    code, prose = content["components"].values()
    code["weight"], prose["weight"] = share / 1000, (1000 - share) / 1000
    code["fim_rate"] = draw(st.floats(0, 1))
    code["sources"][0]["labels"] = draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
    code["quality"] = draw(
        st.dictionaries(
            st.sampled_from(sorted(RULES)),
            st.just(False) | st.fixed_dictionaries({}, optional={"min": st.floats(-9, 9), "max": st.floats(-9, 9)}),
            max_size=4,
        )
    )
    prose["sources"][0]["metadata"] = draw(st.lists(st.text(max_size=4), max_size=3))
    content["seed"] = draw(st.integers(0, 2**63 - 1))
    content["dedup"]["keep"] = draw(st.permutations(["source_priority", "quality", "length", "id"]))
    content["tokenize"] = {"max_tokens": draw(st.none() | st.integers(1, 10**9))}
    return content


@pytest.mark.parametrize(
    "name", ["caf\u00e9", "\u4e2d\u6587", "a\x85b", "\u2028", "a\nb", "\x00", "\U0001f40d", "yes", "1e3", " x "]
)
def test_a_path_of_any_characters_round_trips(tmp_path, name):
    config = parse_config(changed((*SOURCE, "path"), name), "my.yaml")
    assert load_text(tmp_path, config.dump_yaml()) == config


@settings(deadline=None)
@given(configs())
def test_a_dumped_config_loads_as_itself(tmp_path_factory, content):
    config = parse_config(content, "my.yaml")
    text = config.dump_yaml()
    again = load_text(tmp_path_factory.getbasetemp(), text)
    assert again == config and again.dump_yaml() == text
    assert parse_config(config.model_dump(mode="json"), "my.yaml") == config
