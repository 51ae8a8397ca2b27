"""What a model's files are, told by what is in them, and which of them belong together."""

from __future__ import annotations

import base64
import binascii
import hashlib
import mmap
import os
import struct

from edgesdk_targets.agent.flatbuffers import field, number, tables
from edgesdk_targets.agent.protocol import MISSING, USAGE, AgentError

TFLITE, IR, ONNX, NCNN, EXECUTORCH = "TFLite", "OpenVINO IR", "ONNX", "ncnn", "ExecuTorch"
HEAD_BYTES = 4096
MAGIC = b"7767517"  # with which a .param file of ncnn begins
OPERATOR_CODES, SUBGRAPHS, BUFFERS = 1, 2, 4  # fields of the table Model, in schema.fbs of TensorFlow Lite
TENSORS, OPERATORS = 0, 3  # of SubGraph


def kind(source: str | bytes) -> str | None:
    """What the file or the bytes ``source`` hold, ``None`` for something else.

    A TFLite file has its identifier behind the offset of its root, and so has an ExecuTorch program; an IR is XML,
    ncnn's text begins with a number.
    An ONNX file has no mark of its own; what writes one begins with the version of the format, field 1 of the message.
    """
    if isinstance(source, bytes):
        head = source[:HEAD_BYTES]
    else:
        with open(source, "rb") as file:
            head = file.read(HEAD_BYTES)
    if head[4:8] == b"TFL3":
        return TFLITE
    if head[4:6] == b"ET" and head[6:8].isdigit():
        return EXECUTORCH
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"<net" in head:
        return IR
    if head.startswith(MAGIC):
        return NCNN
    return ONNX if len(head) > 1 and head[0] == 0x08 and head[1] < 0x20 else None


def check(source: str | bytes, runtime: str, *kinds: str) -> None:
    """Raise ``AgentError`` where ``source`` is not there, or is of a kind that ``runtime`` is not for.

    What is of no known kind is the runtime's to judge.
    """
    if isinstance(source, str) and not os.path.isfile(source):
        raise AgentError(MISSING, f"{source} is not on this device", "send the file first")
    part = kind(source)
    if part is not None and part not in kinds:
        name = os.path.basename(source) if isinstance(source, str) else "the model"
        fact = f"{name} is {'a' if part == TFLITE else 'an'} {part} file"
        raise AgentError(USAGE, fact, f"{runtime} here runs {' and '.join(kinds)} files")


def source(model: dict[str, str]) -> str | bytes:
    """What ``{"path"}`` or ``{"model": base64 of the file}`` names. Raises ``AgentError`` for neither."""
    if "path" in model:
        return model["path"]
    try:
        return base64.b64decode(model["model"], validate=True)
    except (KeyError, ValueError, binascii.Error):
        raise AgentError(USAGE, "it has neither a path nor a model in base64", "give one") from None


def belonging(path: str) -> list[str]:
    """The files of the artifact at ``path``: itself, and the weights beside an IR or a text of ncnn's."""
    weights = os.path.splitext(path)[0] + ".bin"
    return [path, weights] if kind(path) in (IR, NCNN) and os.path.isfile(weights) else [path]


def digest(path: str) -> str:
    """SHA-256 of the files of the artifact at ``path``, one after the other."""
    return digest_of(*belonging(path))


def digest_of(*paths: str) -> str:
    """SHA-256 of the files ``paths``, one after the other."""
    state = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                state.update(part)
    return state.hexdigest()


def is_plain(name: str) -> bool:
    """Whether ``name`` names a file within a folder, and not that folder, one above, or what is hidden there."""
    return bool(name) and name[0] != "." and name.isprintable() and "/" not in name and "\\" not in name


def is_whole(source: str | bytes) -> bool:
    """Whether the tables of the TFLite file ``source`` and its weights lie within it."""
    if isinstance(source, bytes):
        return _holds_tables(source)
    # Mapped, not read: memory that is taken here would count as the model's.
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _holds_tables(content)


def _holds_tables(content: bytes | mmap.mmap) -> bool:
    try:
        model = number(content, 0)
        for code in tables(content, model, OPERATOR_CODES):
            field(content, code, 0)
        for graph in tables(content, model, SUBGRAPHS):
            for part in (TENSORS, OPERATORS):
                for table in tables(content, graph, part):
                    field(content, table, 0)
        return all(_fits(content, buffer) for buffer in tables(content, model, BUFFERS))
    except struct.error:
        return False


def _fits(content: bytes | mmap.mmap, buffer: int) -> bool:
    place = field(content, buffer, 0)
    if place is None:
        return True
    vector = place + number(content, place)
    return vector + 4 + number(content, vector) <= len(content)
