"""For mkdocs.yml: docstrings as Markdown. Roles such as :func:`edgesdk.deploy` become code, and stars are stars."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`")
CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)


class Roles(Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """``text`` with its roles as code and, outside of code, what Markdown would take for emphasis or a tag escaped."""
    parts = CODE.split(ROLE.sub(r"`\1`", text))
    return "".join(part if CODE.fullmatch(part) else re.sub(r"([*_<])", r"\\\1", part) for part in parts)
