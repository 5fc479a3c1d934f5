"""Reading a config: YAML to a typed model, with errors that name the file, the key and what is allowed.

An unknown or ill-typed key is a `Refused` error, never a warning.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import Refused

ModelT = TypeVar("ModelT", bound=BaseModel)


class Strict(BaseModel):
    """A model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Yaml(yaml.SafeLoader):
    """YAML in which a key that stands twice in one mapping is an error, where YAML would keep the last, and in which
    3e-4 is a number, as in YAML 1.2.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Yaml` reads: text that looks like its numbers is quoted."""


for _side in (_Yaml, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def load(model: type[ModelT], path: str | Path, replaced: Mapping[str, Any] | None = None) -> ModelT:
    """Read and validate a YAML file; the top-level keys in `replaced` take the place of the file's.

    Raises:
        Refused: the file is absent, not YAML, or a key is unknown, ill-typed or out of range.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise Refused(f"{path}: no such config file") from None
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from None
    return parse_yaml(model, data, str(path), replaced)


def parse_yaml(model: type[ModelT], data: bytes, origin: str, replaced: Mapping[str, Any] | None = None) -> ModelT:
    """Validate YAML bytes read from `origin` (named in errors). Raises Refused. replaced: as in `load`."""
    try:
        raw = yaml.load(data.decode("utf-8"), _Yaml)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refused(f"{origin}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    return parse(model, {**raw, **replaced} if replaced and isinstance(raw, dict) else raw, origin)


def parse(model: type[ModelT], raw: Any, origin: str) -> ModelT:
    """Validate a config read from `origin` (named in errors). Raises Refused."""
    if not isinstance(raw, dict):
        raise Refused(f"{origin}: a config is a mapping of keys; this holds {type(raw).__name__}")
    try:
        text = json.dumps(raw, default=str)
    except (TypeError, ValueError):
        raise Refused(f"{origin}: holds itself by an alias, or a key that is no text") from None
    try:
        # As JSON, because only there do strict types (no "16" and no true for 16) leave lists and decimals alone.
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise Refused("\n".join(_sentences(model, origin, error))) from None


def dump_yaml(content: Any) -> str:
    """JSON-like content as YAML that `parse_yaml` reads back."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    if any(mark in text for mark in "\x85\u2028\u2029"):  # PyYAML folds these line breaks: escape them
        text = yaml.dump(content, Dumper=_Dumper, sort_keys=False)
    return text


def _sentences(model: type[BaseModel], origin: str, error: ValidationError) -> list[str]:
    problems = error.errors()
    places = [tuple(problem["loc"]) for problem in problems]
    # A model or `false`: what is neither gets one sentence, not one for each.
    or_false = {place[:-1] for place in places if place[-1:] == ("literal[False]",)}
    return [
        _sentence(model, origin, problem, or_false)
        for problem, place in zip(problems, places, strict=True)
        # A list whose items are wrong also counts as empty.
        if not (problem["type"] == "too_short" and any(p[: len(place)] == place and p != place for p in places))
        and place[-1:] != ("literal[False]",)
    ]


def _sentence(model: type[BaseModel], origin: str, problem: Any, or_false: set[tuple[Any, ...]]) -> str:
    place = tuple(problem["loc"])
    unknown = place[-1:] if problem["type"] == "extra_forbidden" else ()
    keys, here = _walk(model, place[: len(place) - len(unknown)])
    key = ".".join(map(str, (*keys, *unknown))) or "(top level)"
    allowed = [name for found in here for name in found.model_fields]
    if unknown:
        hint = difflib.get_close_matches(str(unknown[0]), allowed, n=1)
        meant = f"; did you mean {hint[0]!r}?" if hint else ""
        return f"{origin}: unknown key {key}{meant} (allowed here: {', '.join(allowed)})"
    message = problem["msg"].removeprefix("Value error, ")
    if place[:-1] in or_false:
        message = f"Input should be a mapping of {', '.join(allowed)}, or false"
    given = problem.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool | type(None)) else ""
    return f"{origin}: {key}: {message}{shown}"


def _walk(model: type[BaseModel], place: Sequence[Any]) -> tuple[list[Any], list[type[BaseModel]]]:
    """The parts of a place that are keys, and the models that sit there.

    Pydantic puts other things between keys: the name or the tag of a union's member, and the validator it was in.
    """
    keys: list[Any] = []
    here: list[Any] = [model]
    for part in place:
        inside = [found for annotation in here for found in _inside(annotation, part)]
        if inside:
            keys.append(part)
            here = inside
        else:
            here = [found for found in here if _is_called(found, part)] or here
    return keys, [found for found in here if isinstance(found, type) and issubclass(found, BaseModel)]


def _inside(annotation: Any, part: Any) -> Iterator[Any]:
    """What `part` leads to from a type: a model's field, a list's item or a dict's value; unions taken apart."""
    arguments = get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if part in annotation.model_fields:
            yield from _members(annotation.model_fields[part].annotation)
    elif (get_origin(annotation) is dict and isinstance(part, str)) or (
        get_origin(annotation) in (list, tuple) and isinstance(part, int)
    ):
        yield from _members(arguments[1] if get_origin(annotation) is dict else arguments[0])


def _members(annotation: Any) -> Iterator[Any]:
    """The types a value may have: of a union each member, of an annotated type the type."""
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (None, dict, list, tuple):
        yield annotation
    else:
        for member in get_args(annotation):
            yield from _members(member)


def _is_called(annotation: Any, part: Any) -> bool:
    """Whether `part` is how pydantic calls this member of a union: by its name, or by its tag."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return False
    return part in (annotation.__name__, *(field.default for field in annotation.model_fields.values()))
