"""Where in the user's own code something happens, named for a user."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from torch import fx


def place_of(error: BaseException) -> str:
    """The innermost line outside of libraries that raised ``error``, in words; empty where there is none."""
    return _place(traceback.extract_tb(error.__traceback__))


def place_here() -> str:
    """The innermost line outside of libraries that is running, in words; empty where there is none."""
    return _place(traceback.extract_stack())


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    frame = next((f for f in reversed(frames) if is_of_user(f.filename)), None)
    return f", in {Path(frame.filename).name} line {frame.lineno}" if frame else ""


def is_of_user(filename: str) -> bool:
    """Whether a file of code is neither of Python, nor of a library, nor of edgesdk."""
    path = str(Path(filename).resolve())
    ours = str(Path(__file__).resolve().parents[2])
    return Path(path).is_file() and not path.startswith((ours, str(Path(sys.prefix).resolve()), sys.base_prefix))


def name_operator(node: fx.Node) -> str:
    """An operator of a network by itself, its module and its line."""
    packet = getattr(node.target, "overloadpacket", node.target)
    operator, path = getattr(packet, "__name__", packet), next(reversed(node.meta.get("paths", [])), "")
    told = str(node.target) if node.op == "call_module" else f"{operator} in {path}" if path else str(operator)
    return told + (f" ({node.meta['line']})" if node.meta.get("line") else "")
