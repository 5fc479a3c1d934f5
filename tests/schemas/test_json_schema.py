from schemas.json_schema import FOLDER, json_schemas


def test_the_schema_files_are_what_the_models_say() -> None:
    expected = json_schemas()
    assert {path.name for path in FOLDER.glob("*.schema.json")} == set(expected)
    for name, text in expected.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, "run python -m schemas.json_schema"
