"""Manifests: bytes that follow from the content, refusals by name, speed at full scale, and the two laws."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import manifest
from schemas.errors import TokenmillError
from schemas.json_schema import FOLDER
from schemas.manifest import DocumentLaw, ShardManifest, StageManifest, TokenLaw

SHA = "0123456789abcdef" * 4
TOKENIZER = {
    "fingerprint": "t", "vocab_size": 32000, "begin": 1, "end": 2, "pad": 3,
    "fim_begin": 4, "fim_hole": 5, "fim_end": 6,
}  # fmt: skip
COUNTS = st.dictionaries(st.text(max_size=8), st.integers(0, 2**62), max_size=4)
FILES = st.lists(
    st.fixed_dictionaries(
        {
            "path": st.text(max_size=12),
            "records": st.integers(0, 2**40),
            "bytes": st.integers(0, 2**60),
            "sha256": st.just(SHA),
        }
    ),
    max_size=4,
)


def view(files=1, validation=1):
    """A shard manifest as JSON, of `files` train shards and as many units' worth of everything else as it takes."""
    file = [
        {"path": f"train-{k:05d}-of-{files:05d}.tfrecord", "records": 1000, "bytes": 8_000_000, "sha256": SHA}
        for k in range(files)
    ]
    shards = [one | {"ends": "0123456789abcdef"} for one in file]
    held_out = [dict(shards[0], path=f"validation-code-{k:05d}.tfrecord") for k in range(validation)]
    return {
        "format_version": 1,
        "stage": "shard",
        "fingerprint": "f",
        "sequence_length": 4096,
        "token_dtype": "uint16",
        "packing": "best_fit",
        "tokenizer": TOKENIZER,
        "order": {
            "version": 1, "permutation": "p", "seed": 17, "period": 25,
            "components": [{"name": "code", "weight": 1, "requested": 1.0, "realised": 1.0}],
        },
        "components": {
            "code": {
                "documents": 3, "tokens": 5, "available": 7, "used": 6, "unused": 1, "repeats": 1, "token_share": 1.0,
            }
        },
        "splits": {
            "train": {"lanes": 16, "groups": 4, "rows": 1000, "records": 64000, "files": shards},
            "validation": {"code": {"records": 5, "files": held_out}},
        },
        "provenance": [dict(one, path=f"provenance-{k:05d}.parquet") for k, one in enumerate(file[: files // 2])],
        "units": {"path": "units.parquet", "sha256": SHA},
        "conservation": {
            "documents": {"in": 10, "kept": 7, "dropped": {"near_duplicate": 2}, "rejected": {"not_utf8": 1}},
            "tokens": {"encoded": 100, "in_records": 90, "repeated": 5, "padding": 3, "unused": 10},
        },
        "versions": {"numpy": "2"},
        "parent": None,
    }  # fmt: skip


def parsed(content, model=ShardManifest):
    return manifest.parse(model, json.dumps(content).encode(), "here/manifest.json")


def test_a_view_round_trips_and_reads_as_plain_json():
    content = view(files=3)
    data = manifest.dump(parsed(content))
    assert json.loads(data) == content
    assert manifest.dump(manifest.parse(ShardManifest, data, "x")) == data


@settings(deadline=None)
@given(COUNTS, FILES, st.lists(st.tuples(st.integers(0, 99), COUNTS), max_size=3), st.text(max_size=9), st.data())
def test_a_stage_round_trips_and_its_bytes_do_not_depend_on_the_spelling(counts, files, units, word, data):
    content = {
        "stage": data.draw(st.sampled_from(manifest.STAGES)),
        "component": data.draw(st.none() | st.just(word)),
        "fingerprint": word,
        "counts": counts,
        "files": files,
        "units": [
            {"unit": number, "inputs": [{"path": word, "size": 1, "sha256": SHA}], "counts": inner}
            for number, inner in units
        ],
        "alarms": [word],
        "details": {word: [1, {"a": None}]},
    }
    whole = parsed(content, StageManifest)
    dumped = manifest.dump(whole)
    assert manifest.parse(StageManifest, dumped, "x") == whole
    respelled = json.dumps(dict(reversed(content.items())), indent=7, ensure_ascii=False).encode()
    assert manifest.dump(manifest.parse(StageManifest, respelled, "x")) == dumped
    assert dumped.endswith(b"}\n") and b"\r" not in dumped
    assert json.loads(dumped) | content == json.loads(dumped)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_a_fingerprint_sees_content_and_not_its_order(content):
    print_ = manifest.fingerprint({"a": content, "b": 1})
    assert print_ == manifest.fingerprint({"b": 1, "a": content})
    assert print_ != manifest.fingerprint({"b": 2, "a": content})
    assert len(print_) == 64 and set(print_) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("format_version",), 2, "format_version: Input should be 1"),
        (("stage",), "ingest", "stage: "),
        (("token_dtype",), "uint64", "token_dtype: "),
        (("surprise",), 1, "surprise: Extra inputs are not permitted"),
        (("splits", "train", "files", 0, "sha265"), SHA, "splits.train.files.0.sha265: Extra"),
        (("splits", "train", "lanes"), "many", "splits.train.lanes: "),
        (("order", "version"), 2, "order.version: "),
    ],
)
def test_another_format_is_refused_by_name(path, value, told):
    content = view()
    at = content
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    with pytest.raises(TokenmillError) as caught:
        parsed(content)
    message = str(caught.value)
    assert message.startswith("here/manifest.json: not a ShardManifest of format version 1: ") and told in message


def test_what_is_no_json_or_absent_is_refused_by_name(tmp_path):
    path = tmp_path / "manifest.json"
    with pytest.raises(TokenmillError, match=f"{path}: cannot read the manifest"):
        manifest.load(StageManifest, path)
    for data in (b"", b"{", b"\xff", b"[]", manifest.dump(parsed(view()))[:-40]):
        path.write_bytes(data)
        with pytest.raises(TokenmillError, match=str(path)):
            manifest.load(ShardManifest, path)


def test_two_hundred_thirty_thousand_files_take_seconds():
    content = view(files=230_000)
    data = json.dumps(content).encode()
    began = time.process_time()
    whole = manifest.parse(ShardManifest, data, "x")
    read = time.process_time()
    dumped = manifest.dump(whole)
    written = time.process_time()
    print(f"{len(dumped) / 1e6:.0f} MB: parse {read - began:.2f} s, dump {written - read:.2f} s")
    assert len(whole.splits.train.files) == 230_000 and len(whole.provenance) == 115_000
    assert read - began < 8 and written - read < 8
    assert json.loads(dumped) == content


# -- JSON Schemas -----------------------------------------------------------------------------------------------------


def json_schemas():
    """The JSON Schemas of both kinds as they are published."""
    names = ("StageManifest", "ShardManifest")
    return {name: json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")) for name in names}


def references(node):
    """Every $ref below a node."""
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def accepts(schema, definitions, value):  # noqa: PLR0911
    """Whether a value fits a schema; the part of JSON Schema that the manifests use, and nothing else."""
    if "$ref" in schema:
        return accepts(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions, value)
    if "anyOf" in schema:
        return any(accepts(choice, definitions, value) for choice in schema["anyOf"])
    if "const" in schema:
        return value == schema["const"]
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema.get("type")
    if kind == "object":
        if not isinstance(value, dict) or not set(schema.get("required", [])) <= value.keys():
            return False
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        return all(
            accepts(known[key], definitions, inner)
            if key in known
            else rest is True or (rest is not False and accepts(rest, definitions, inner))
            for key, inner in value.items()
        )
    if kind == "array":
        return isinstance(value, list) and all(accepts(schema["items"], definitions, inner) for inner in value)
    plain = {"string": str, "integer": int, "number": int | float, "null": type(None), None: object}
    return isinstance(value, plain[kind])


def test_the_json_schemas_are_whole_and_fit_what_is_written():
    schemas = json_schemas()
    for schema in schemas.values():
        assert schema["type"] == "object" and schema["additionalProperties"] is False
        assert all(reference.removeprefix("#/$defs/") in schema["$defs"] for reference in references(schema))
    shard = schemas["ShardManifest"]
    written = json.loads(manifest.dump(parsed(view())))
    assert set(shard["properties"]) == set(written)
    assert accepts(shard, shard["$defs"], written)
    for broken in (
        {**written, "extra": 1},
        {**written, "sequence_length": "long"},
        {key: value for key, value in written.items() if key != "splits"},
        {**written, "conservation": {**written["conservation"], "documents": {"into": 1}}},
    ):
        assert not accepts(shard, shard["$defs"], broken)


def test_a_real_runs_manifests_fit_the_schemas(small_run):
    schemas = json_schemas()
    paths = sorted(small_run.rglob("manifest.json"))
    assert len(paths) >= 3 * 2 + 1 + 2
    for path in paths:
        data = path.read_bytes()
        model = ShardManifest if "shards" in path.parts else StageManifest
        schema = schemas[model.__name__]
        assert accepts(schema, schema["$defs"], json.loads(data)), path
        assert manifest.dump(manifest.load(model, path)) == data


# -- the laws ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 99), COUNTS, COUNTS, st.integers(-5, 5))
def test_every_document_is_accounted_for(kept, dropped, rejected, lost):
    into = kept + sum(dropped.values()) + sum(rejected.values()) + lost
    assert DocumentLaw(into=into, kept=kept, dropped=dropped, rejected=rejected).holds() == (lost == 0)


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(1, 99), st.integers(0, 9), st.integers(-1, 1), st.integers(-1, 1), st.data())
def test_every_token_and_every_place_is_accounted_for(records, length, unused, lost, hole, data):
    places = records * (length + 1)
    in_records = data.draw(st.integers(0, places))
    repeated = data.draw(st.integers(0, places - in_records))
    law = TokenLaw(
        encoded=in_records + unused + lost,
        in_records=in_records,
        repeated=repeated,
        padding=places - in_records - repeated + hole,
        unused=unused,
    )
    assert law.holds(records, length) == (lost == 0 and hole == 0)


def test_the_laws_hold_in_a_real_run(small_run):
    for path in sorted((small_run / "shards").glob("*/manifest.json")):
        whole = manifest.load(ShardManifest, path)
        records = whole.splits.train.records + sum(split.records for split in whole.splits.validation.values())
        assert whole.conservation.documents.holds() and whole.conservation.tokens.holds(records, whole.sequence_length)
        assert whole.conservation.documents.into > whole.conservation.documents.kept
