"""What a classifier answers otherwise than the dense model that it was made of: by class, by confusion, by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

LISTED = 50  # classes, and confusions of two, at most: those that changed most
FLIPS = 16  # samples at most, each perhaps with its picture

Counts = Mapping[tuple[int, int], int]
"""How often each class was answered for each: by (label, answer)."""


@dataclass(frozen=True)
class ClassChange:
    """How many of the ``count`` answers about class ``label`` are right: the dense model's, and the deployed file's."""

    label: int
    count: int
    dense: int
    deployed: int


@dataclass(frozen=True)
class Confusion:
    """How often ``answer`` was said of class ``label``, by the dense model and by the deployed file."""

    label: int
    answer: int
    dense: int
    deployed: int


Change = TypeVar("Change", ClassChange, Confusion)


@dataclass(frozen=True)
class Flip:
    """A test sample, by its place from 0, about which the two answer differently.

    ``picture`` is a PNG in base64, no larger than a thumbnail, where the input is an image.
    """

    sample: int
    label: int
    dense: int
    deployed: int
    picture: str | None = None

    @property
    def lost(self) -> bool:
        """Whether the dense model was right."""
        return self.dense == self.label

    @property
    def gained(self) -> bool:
        """Whether the deployed file is right."""
        return self.deployed == self.label


@dataclass(frozen=True)
class AnswerChanges:
    """What the deployed file answers otherwise than the dense model, on test data.

    Of so many ``answers`` ``lost`` were right before, ``gained`` are right now, ``otherwise`` are wrong in another way;
    these are ``None`` where a sample has many answers, as an image that is cut into classes. ``classes`` and
    ``confusions`` are those that changed, the most first, of ``classes_changed`` and ``confusions_changed`` in all;
    ``flips`` are some of the samples, of each of the three kinds.
    """

    answers: int
    lost: int | None
    gained: int | None
    otherwise: int | None
    classes_changed: int
    classes: tuple[ClassChange, ...]
    confusions_changed: int
    confusions: tuple[Confusion, ...]
    flips: tuple[Flip, ...]

    @classmethod
    def of(cls, dense: Counts, deployed: Counts, flips: Iterable[Flip] | None) -> AnswerChanges:
        """By how often each answer was given, and all ``flips``; ``None`` of these where a sample has many answers."""
        count = Counter[int]()
        for (label, _), times in dense.items():
            count[label] += times
        classes = [
            ClassChange(label, count[label], dense.get((label, label), 0), deployed.get((label, label), 0))
            for label in sorted(count)
        ]
        confusions = [
            Confusion(label, answer, dense.get((label, answer), 0), deployed.get((label, answer), 0))
            for label, answer in sorted({*dense, *deployed})
            if label != answer
        ]
        every, told, named = list(flips or ()), _rank(classes), _rank(confusions)
        lost, gained = sum(flip.lost for flip in every), sum(flip.gained for flip in every)
        kinds = (None, None, None) if flips is None else (lost, gained, len(every) - lost - gained)
        return cls(
            sum(count.values()), *kinds, len(told), tuple(told[:LISTED]), len(named), tuple(named[:LISTED]),
            choose_flips(every),
        )  # fmt: skip


def _rank(changes: list[Change]) -> list[Change]:
    """Those that changed, the most first."""
    changed = [each for each in changes if each.dense != each.deployed]
    return sorted(changed, key=lambda each: -abs(each.deployed - each.dense))


def choose_flips(flips: list[Flip]) -> tuple[Flip, ...]:
    """Some of ``flips`` in their order: of the lost, the gained and the others in turn, until they are enough."""
    kinds = [
        [flip for flip in flips if flip.lost],
        [flip for flip in flips if flip.gained],
        [flip for flip in flips if not flip.lost and not flip.gained],
    ]
    turns = (kind[place] for place in range(FLIPS) for kind in kinds if place < len(kind))
    return tuple(sorted([flip for flip, _ in zip(turns, range(FLIPS), strict=False)], key=lambda flip: flip.sample))
