"""Frozen dataclasses to JSON and back, documents read, files written whole or not at all, and digests."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import sys
import threading
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from edgesdk.core.errors import BundleError, StorageError
from edgesdk.core.schema import Schema

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

T = TypeVar("T")
SHOWN = 80  # letters of a value in a message
BYTES = "_bytes"  # how the names of fields in bytes end
FORMER = "former"  # in a field's metadata: how documents called it before
RARE = "rare"  # in a field's metadata: a document has it where it is not the default, as those before it did not


def to_json(value: Any) -> Any:
    """``value`` as plain lists, dictionaries and scalars; dataclasses become dictionaries of their fields.

    A document begins with its schema. Fields in bytes are whole numbers there, whatever a sum of prices made of them.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        said = [f for f in dataclasses.fields(value) if RARE not in f.metadata or getattr(value, f.name) != f.default]
        names = sorted((field.name for field in said), key=lambda name: name != "schema")
        return {name: _field(name, getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def _field(name: str, value: Any) -> Any:
    if name.endswith(BYTES) and isinstance(value, float) and math.isfinite(value):
        return round(value)
    return to_json(value)


def from_json(kind: type[T], value: Any) -> T:
    """The inverse of :func:`to_json` for dataclass ``kind``; unknown fields are left out.

    A field whose metadata has a :data:`FORMER` name is read under that, too.

    A document that says its schema may be of a version before. Raises ``BundleError`` where a field is missing or of
    another type, and for another kind of document or one that is newer.
    """
    try:
        return _build(kind, value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise BundleError(
            f"not a {kind.__name__}: {error}", "write the file anew with this version of edgesdk"
        ) from None


def _build(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(kind)
        former = {field.name: field.metadata[FORMER] for field in fields if FORMER in field.metadata}
        value = {**{name: value[before] for name, before in former.items() if before in value}, **value}
        defaults = {f.name: f.default for f in fields}
        if isinstance(own := defaults.get("schema"), Schema) and "schema" in value:  # a newer one has other fields
            value = {**value, "schema": str(own.check(value["schema"], f"the {own.kind}"))}
        required = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
        if missing := [name for name in required if name not in value]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return kind(**{name: _build(hints[name], value[name]) for name in hints if name in value})  # type: ignore[operator]
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _build(next(a for a in arguments if a is not type(None)), value)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{_shown(value)} is not a list")
        items = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_build(item, part) for item, part in zip(items, value, strict=True))
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {arguments[0](key): _build(arguments[1], item) for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str, bool) and type(value) is not kind:
        raise TypeError(f"{_shown(value)} is not of type {kind.__name__}")
    return value


def _shown(value: Any) -> str:
    return f"{value!r:.{SHOWN}}"


def is_table(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value is a table as JSON and TOML have it: a dictionary whose keys are texts."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value that was read from JSON or TOML, or given in its place, is a list."""
    return isinstance(value, (list, tuple))


def loads(text: str) -> Any:
    """What a JSON document holds.

    Raises ``ValueError`` for what is none, as one with NaN or an infinity is not, or is nested deeper than can be read.
    """
    try:
        return json.loads(text, parse_float=_parse_finite, parse_constant=_parse_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _parse_finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"it holds {text:.{SHOWN}}, where JSON has finite numbers alone")
    return number


def loads_toml(text: str) -> dict[str, Any]:
    """What a TOML document holds. Raises ``ValueError`` for what is none, or nested deeper than can be read."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def digest(value: Any) -> str:
    """SHA-256 of ``value``: of bytes as they are, of anything else through its canonical JSON."""
    if not isinstance(value, bytes):
        value = json.dumps(to_json(value), sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(value).hexdigest()


def find_file(place: str | Path, usual: str) -> Path:
    """The file that ``place`` names: where that is a folder, or ends with a slash, the one with the ``usual`` name
    in it."""
    text = os.fspath(place) or "."
    return Path(text, usual) if text.endswith(os.sep) or os.path.isdir(text) else Path(text)


def write(path: Path, content: bytes | str) -> None:
    """Write ``path`` whole or not at all: to a temporary name beside it, then renamed. Folders above it are made.

    Raises ``StorageError`` where the disk or the permissions do not allow it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space or choose another place" if full else "choose another place"
        raise StorageError(f"cannot write {path}: {error.strerror}", remedy) from None


def dumps(value: Any) -> str:
    """``value`` as an indented JSON document that ends in a newline; what is no finite number is null there."""
    return json.dumps(_finite(to_json(value)), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """A document with null for infinities and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
