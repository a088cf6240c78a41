"""Presets, files and overrides to one resolved configuration whose every value has an origin."""

import difflib
import re
import types
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from flows.shipped import is_file, read_file, read_shipped, shipped_names
from sicsrec.addresses import without_passwords
from sicsrec.config import PipelineConfig
from sicsrec.config.base import NOT_FOR_THIS_DATA, VARIANT_TAGS, is_other_variant
from sicsrec.errors import ConfigError, NotApplicableError
from sicsrec.paths import check_utf8, expanded

Origins = dict[str, str]
"""Where each value comes from: ``preset demo``, ``--set``, ...; keyed by dotted path."""

_OPTIONS = ("--set", "--seed", "--data")
_PARAMETERS = ("overrides", "seed", "data")
"""What a deployment calls them."""

FILE_SUFFIXES = (".yaml", ".yml")
"""What the names of files end in; any other name is one of a shipped preset."""


@dataclass(frozen=True)
class ResolvedConfig:
    """A valid configuration and where its values come from."""

    preset: str
    config: PipelineConfig
    origins: Origins

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """Yield dotted path, value and origin of every value, in the order of the sections."""
        for path, value in _leaves(self.config.model_dump(mode="json")):
            yield path, value, self._origin(path)

    def _origin(self, path: str) -> str:
        parts = path.split(".")
        for end in range(len(parts), 0, -1):
            if (origin := self.origins.get(".".join(parts[:end]))) is not None:
                return origin
        return "default"


_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)
"""What reading YAML raises: where a value is not of the type that it says, such as ``!!int two``,
``!!bool two`` or ``0x_``, it is whatever Python says of it."""


class _Loader(yaml.SafeLoader):
    """Plain values only; a key given twice is an error; ``1e-5`` is a number, dates stay text."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(
                problem=f"a {key_node.id} cannot be a key", problem_mark=key_node.start_mark
            )
        if key in seen:
            line = key_node.start_mark.line + 1
            raise ConfigError(f"{key_node.start_mark.name}, line {line}: {key!r} is given twice")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in entries if not tag.endswith(":timestamp")]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that are part of the package."""
    return shipped_names("presets")


def resolve_config(
    preset: str = "demo",
    *,
    data: str | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    as_parameters: bool = False,
) -> ResolvedConfig:
    """Merge preset, data folder and overrides, and check the result.

    Args:
        preset: name of a shipped preset or path of a YAML file, which may extend a preset.
        data: folder of the raw data; relative to the working folder.
        overrides: ``section.key=value`` with the value as YAML; later ones win.
        seed: seed of every step that draws random numbers.
        as_parameters: whether messages name parameters of a deployment in place of options.

    Raises:
        ConfigError: naming every wrong key and value.
        NotApplicableError: if all is right but asks for data that there is not.
    """
    check_utf8(preset, "the configuration")
    by_set, by_seed, by_data = _PARAMETERS if as_parameters else _OPTIONS
    for text in overrides:
        check_utf8(text, by_set)
    values, origins = _load(preset)
    changes = [parse_override(text, by_set) for text in overrides]
    for path, value in changes:
        _set(values, origins, path, value, by_set)
    if seed is not None:
        _set(values, origins, "seed", seed, by_seed)
    if data is not None:
        folder = str(expanded(data, by_data).resolve())
        check_utf8(folder, by_data)
        _set(values, origins, "ingest.path", folder, by_data)
    _check_data(values, preset, by_data)
    _expand_home(values)
    unknown = list(_unknown_keys(values, PipelineConfig, ""))
    if unknown:
        raise ConfigError(_listed(f"configuration {preset!r}", _with_origin(unknown, origins)))
    try:
        config = PipelineConfig.model_validate(values)
    except ValidationError as err:
        problems = _with_origin(_problems(err, values), origins)
        # Without the cause, which repeats what was refused, a key perhaps, in every traceback.
        if {fault["type"] for fault in err.errors()} == {NOT_FOR_THIS_DATA}:
            raise NotApplicableError("\n".join(problems)) from None
        raise ConfigError(_listed(f"configuration {preset!r}", problems)) from None
    return ResolvedConfig(preset, config, origins)


def extend_preset(preset: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file that is a preset, or another file, with changes.

    Args:
        preset: name of a shipped preset, which the file extends, or path of a file.
        changes: dotted path to value.
    """
    values: dict[str, Any] = {"extends": preset}
    if preset not in preset_names():
        values = parse_mapping(read_file(Path(preset)), preset)
    for path, value in changes.items():
        _set(values, {}, path, value, "")
    return values


def _load(preset: str) -> tuple[dict[str, Any], Origins]:
    """Return the values and origins of a preset or file, with what it extends below."""
    names = preset_names()
    if preset in names:
        text = read_shipped("presets", preset)
        label, where = f"preset {preset}", f"{preset}.yaml"
    else:
        path = Path(preset)
        if path.suffix not in FILE_SUFFIXES:
            close = difflib.get_close_matches(preset, names, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(
                f"unknown preset {preset!r}{hint} Known: {', '.join(names)}. "
                "A file of yours must end in .yaml"
            )
        if not is_file(path):
            raise ConfigError(f"there is no configuration file {path}")
        text, label, where = read_file(path), f"file {path.name}", str(path)
    values = parse_mapping(text, where)
    base = values.pop("extends", None)
    if base is None:
        return values, dict.fromkeys((path for path, _ in _leaves(values)), label)
    if base not in names or preset in names:
        raise ConfigError(
            f"{where}: extends: {base!r} must name a shipped preset ({', '.join(names)}), and "
            "shipped presets extend nothing"
        )
    merged, origins = _load(base)
    _merge(merged, origins, values, "", label)
    return merged, origins


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """Read YAML that holds names and values.

    Args:
        text: the YAML.
        where: what messages call it.

    Raises:
        ConfigError: if it is not valid, or holds something else.
    """
    try:
        loader = _Loader(text)
        loader.name = where
        values = loader.get_single_data()
    except _UNREADABLE as err:
        for mark in (getattr(err, "context_mark", None), getattr(err, "problem_mark", None)):
            if mark is not None:
                # Without it no text around the place is quoted, which may be half an address, with
                # a password that nothing tells from other words. Its cause would repeat it.
                mark.buffer = None
        told = without_passwords(str(err))
        raise ConfigError(f"{where} is not valid YAML: {told}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must hold sections and values, found {type(values).__name__}")
    return values


def parse_override(text: str, option: str = "--set") -> tuple[str, Any]:
    """Return path and value of ``section.key=value``, the value being YAML.

    Plain text, such as a path, is taken whole: in it `` #`` begins no comment.

    Args:
        text: as somebody gave it.
        option: what messages call it.

    Raises:
        ConfigError: if it is written otherwise.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or not all(path.split(".")):
        raise ConfigError(f"{option} {without_passwords(text)!r}: write it as section.key=value")
    try:
        read = _Loader(value).get_single_data()
    except _UNREADABLE:
        raise ConfigError(
            f"{option} {without_passwords(text)!r}: the value is not valid YAML"
        ) from None
    whole = value.strip()
    if whole.startswith("#"):
        return path, whole
    if isinstance(read, str) and whole.startswith(read):
        is_cut = whole.removeprefix(read).lstrip().startswith("#")
        return path, whole if is_cut else read
    return path, read


def _set(values: dict[str, Any], origins: Origins, path: str, value: object, origin: str) -> None:
    change: object = value
    for part in reversed(path.split(".")):
        change = {part: change}
    if isinstance(change, dict):
        _merge(values, origins, change, "", origin)


def _merge(
    base: dict[str, Any], origins: Origins, change: Mapping[str, Any], prefix: str, origin: str
) -> None:
    """Put ``change`` over ``base``; a section that changes its variant is replaced as a whole."""
    for name, value in change.items():
        path, old = f"{prefix}{name}", base.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and not is_other_variant(old, value):
            _merge(old, origins, value, f"{path}.", origin)
            continue
        for known in [key for key in origins if key == path or key.startswith(f"{path}.")]:
            del origins[known]
        base[name] = value
        for leaf, _ in _leaves({name: value}, prefix):
            origins[leaf] = origin


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_data(values: Mapping[str, Any], preset: str, option: str) -> None:
    ingest = values.get("ingest")
    if not isinstance(ingest, dict) or not isinstance(ingest.get("reader"), dict):
        return
    if ingest["reader"].get("kind") == "demo" and ingest.get("path") is not None:
        raise ConfigError(
            f"{option}: the preset {preset!r} generates its own catalogue and reads no folder; "
            f"name a preset for your data, e.g. one of {', '.join(preset_names())}"
        )


def _expand_home(values: Mapping[str, Any]) -> None:
    """Let a file name data and given vectors by ``~``, as a shell lets ``--data``."""
    ingest, encode_items = values.get("ingest"), values.get("encode_items")
    source = encode_items.get("source") if isinstance(encode_items, dict) else None
    for section, name in ((ingest, "path"), (source, "text"), (source, "image")):
        if isinstance(section, dict) and str(section.get(name)).startswith("~"):
            section[name] = str(expanded(section[name], name))


def _unknown_keys(values: object, model: type[BaseModel], prefix: str) -> Iterator[str]:
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        field = model.model_fields.get(name)
        if field is None:
            known = _known_here(str(name), list(model.model_fields), prefix)
            yield f"{prefix}{name}: no such key; {known}"
            continue
        inner = _model_of(field.annotation, value)
        if inner is not None:
            yield from _unknown_keys(value, inner, f"{prefix}{name}.")


def _known_here(name: str, known: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {prefix}{close[0]}? " if close else ""
    return f"{hint}known here: {', '.join(known)}"


def _model_of(annotation: object, value: object) -> type[BaseModel] | None:
    """Return the section class that ``value`` is meant for, None when it is no section."""
    members = list(_members(annotation))
    for tag in VARIANT_TAGS:
        if isinstance(value, dict) and tag in value:
            for member in members:
                field = member.model_fields.get(tag)
                if field is not None and value[tag] in get_args(field.annotation):
                    return member
            return None
    return members[0] if len(members) == 1 else None


def _members(annotation: object) -> Iterator[type[BaseModel]]:
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _members(argument)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


_MAY_HOLD_KEYS = {"api_key_variable", "base_url"}


def _problems(error: ValidationError, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per fault: path, problem, value."""
    for fault in error.errors(include_url=False):
        path: list[str] = []
        inner: Any = values
        for index, part in enumerate(fault["loc"]):
            # A location also names the variant of a section, which is no key of the file.
            is_key = isinstance(inner, Mapping) and part in inner
            if is_key or index == len(fault["loc"]) - 1:
                path.append(str(part))
                inner = inner[part] if is_key else {}
        context = fault.get("ctx", {})
        message = fault["msg"].removeprefix("Value error, ")
        given = without_passwords(repr(fault["input"]))
        # Whoever writes a key where the name of a variable belongs does not want it in a log.
        is_shown = not isinstance(fault["input"], dict) and not _MAY_HOLD_KEYS & {*path[-1:]}
        found = f" (got {given})" if is_shown else ""
        match fault["type"]:
            case "union_tag_invalid":
                path.append(context["discriminator"].strip("'"))
                known = [tag.strip("'") for tag in context["expected_tags"].split(", ")]
                message = f"no such value; {_known_here(context['tag'], known)}"
                found = f" (got {context['tag']!r})"
            case "model_attributes_type" | "model_type" | "dict_type":
                message = "a section with keys of its own is expected"
            case "string_type" if isinstance(fault["input"], bool | int | float):
                message = (
                    "text is expected; in YAML some words and numbers are text in quotes alone"
                )
            case "string_pattern_mismatch" if path == ["dataset"]:
                message = "a name is made of small letters, digits, - and _"
        yield f"{'.'.join(path)}: {message}{found}" if path else message


def _with_origin(problems: Iterable[str], origins: Origins) -> list[str]:
    """Say of problems, which begin with a key, when no file is to blame."""
    return [
        f"{text} ({origin})"
        if (origin := origins.get(text.partition(":")[0])) in (_OPTIONS[0], _PARAMETERS[0])
        else text
        for text in problems
    ]


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title} cannot be used:", *(f"  {line}" for line in lines)])
