"""What changed in decisions: which classes are answered rightly more or less often, what is confused, which samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgesdk.core.wording import counted
from edgesdk.pages.layers import Rows
from edgesdk.pages.render import Document

BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class Changed:
    """A row: how often something was answered by the dense model, and by the deployed file."""

    label: str
    answer: str
    count: int | None
    dense: int
    deployed: int

    @property
    def difference(self) -> int:
        return self.deployed - self.dense


@dataclass(frozen=True)
class Flipped:
    """A sample that is answered otherwise, ``kind`` of which; its ``picture`` as an address that holds it."""

    sample: int
    kind: str
    label: str
    dense: str
    deployed: str
    picture: str | None


@dataclass(frozen=True)
class AnswersShown:
    """The section: ``line`` says it in a sentence."""

    line: str
    classes: Rows
    confusions: Rows
    flips: Sequence[Flipped]
    flipped: int | None

    @classmethod
    def of(cls, changes: Document | None, names: Sequence[str]) -> AnswersShown | None:
        """The section about ``changes`` of a report, the classes by their ``names``; ``None`` where it has none."""
        if not changes:
            return None

        def name(number: int) -> str:
            return str(names[number]) if 0 <= number < len(names) else f"class {number}"

        classes = [
            Changed(name(each["label"]), "", each["count"], each["dense"], each["deployed"])
            for each in changes["classes"]
        ]
        confusions = [
            Changed(name(each["label"]), name(each["answer"]), None, each["dense"], each["deployed"])
            for each in changes["confusions"]
        ]
        kinds = [changes[kind] for kind in ("lost", "gained", "otherwise")]
        return cls(
            _sentence(changes), Rows(classes, changes["classes_changed"] - len(classes)),
            Rows(confusions, changes["confusions_changed"] - len(confusions)),
            [_flipped(flip, name) for flip in changes["flips"]], None if None in kinds else sum(kinds),
        )  # fmt: skip


def _sentence(changes: Document) -> str:
    of = f"Of {counted(changes['answers'], 'answer')} about test data"
    if None not in (kinds := (changes["lost"], changes["gained"], changes["otherwise"])):
        if not any(kinds):
            return f"{of} the deployed file gives every one as the dense model does."
        lost, gained, otherwise = kinds
        more = f", and {otherwise} wrong in another way" if otherwise else ""
        return f"{of} the deployed file has {lost} wrong that were right, {gained} right that were wrong{more}."
    if not changes["classes_changed"]:
        return f"{of} the deployed file has as many of each class right as the dense model."
    return f"{of} the deployed file has another number right in {changes['classes_changed']} of the classes."


def _flipped(flip: Any, name: Callable[[int], str]) -> Flipped:
    lost, gained = flip["dense"] == flip["label"], flip["deployed"] == flip["label"]
    picture = flip.get("picture")
    return Flipped(
        flip["sample"],
        "lost" if lost else "gained" if gained else "wrong both times",
        name(flip["label"]),
        name(flip["dense"]),
        name(flip["deployed"]),
        f"data:image/png;base64,{picture}" if picture and BASE64.fullmatch(picture) else None,
    )  # fmt: skip
