"""Reading FlatBuffers by hand: tables whose fields are found by their number in the schema."""

from __future__ import annotations

import mmap
import struct
from typing import Any, Iterator


def number(content: bytes | mmap.mmap, place: int, form: str = "<I") -> Any:
    """The number at ``place``. Raises ``struct.error`` where that is outside of ``content``."""
    if not 0 <= place <= len(content):  # Python counts from the end, and has no place for what is very far
        raise struct.error("outside of the content")
    return struct.unpack_from(form, content, place)[0]


def field(content: bytes | mmap.mmap, table: int, index: int) -> int | None:
    """Where the field ``index`` of the table at ``table`` is; ``None`` where it is left out."""
    layout = table - number(content, table, "<i")
    if 4 + 2 * index >= number(content, layout, "<H"):
        return None
    offset = number(content, layout + 4 + 2 * index, "<H")
    return table + offset if offset else None


def value(content: bytes | mmap.mmap, table: int, index: int, form: str = "<I") -> Any:
    """The number in the field ``index`` of the table at ``table``; 0 where it is left out."""
    place = field(content, table, index)
    return 0 if place is None else number(content, place, form)


def follow(content: bytes | mmap.mmap, place: int) -> int:
    """The table that the offset at ``place`` leads to."""
    return place + number(content, place)


def tables(content: bytes | mmap.mmap, table: int, index: int) -> Iterator[int]:
    """The tables of the vector in the field ``index`` of the table at ``table``."""
    place = field(content, table, index)
    if place is not None:
        vector = follow(content, place)
        for i in range(number(content, vector)):
            yield follow(content, vector + 4 + 4 * i)
