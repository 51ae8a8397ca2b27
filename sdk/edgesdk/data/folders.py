"""Folders of images, a sub-folder per class, as people have them: with splits, in any format and size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesdk.core.errors import DataError, EdgeSdkError
from edgesdk.core.wording import counted, listed, said
from edgesdk.data.preprocessing import CROP
from edgesdk_targets.bundle_run import as_mode, orientation, resized

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".tga", ".jp2", ".avif",
)  # fmt: skip
MODES = ("L", "RGB", "RGBA")
TRAIN, VALID, TEST = ("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing", "eval")
CIRCLE, SPECIAL = "circular link", "special file"  # beside suffixes, of what is no image
LEFT_BEHIND = ("__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini")  # by systems, in archives and folders


@dataclass
class Folder:
    """Images (N, channels, height, width) as uint8 of each split that there is, with labels; class names; notes."""

    parts: Mapping[str, tuple[np.ndarray, np.ndarray]]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class _Count:
    """What was seen and not taken."""

    hidden: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)

    def visible(self, folder: Path) -> list[Path]:
        """What lies in ``folder`` by name, but for what systems leave behind, which is counted."""
        paths = []
        for path in sorted(folder.iterdir()):
            if path.name in LEFT_BEHIND or path.name.startswith("."):
                self.hidden[path.name if path.name in LEFT_BEHIND else "hidden"] += 1
            else:
                paths.append(path)
        return paths

    @property
    def notes(self) -> list[str]:
        lines = []
        if self.other:
            kinds = ", ".join(
                counted(count, kind) if kind in (CIRCLE, SPECIAL) else f"{count} {kind}"
                for kind, count in sorted(self.other.items())
            )
            several = sum(self.other.values()) > 1
            skipped = "files are no images in a class, and were" if several else "file is no image in a class, and was"
            lines.append(f"{sum(self.other.values())} {skipped} skipped: {kinds}")
        if self.hidden:
            kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.hidden.items()))
            lines.append(f"left out what systems leave behind: {kinds}")
        return lines


def read_folder(path: Path, wanted: Mapping[str, Any]) -> Folder:
    """The images in ``path``: a sub-folder per class, or ``train`` and perhaps ``val`` and ``test`` with such each.

    With ``image_size`` and ``channel_order`` in ``wanted`` (:class:`Preprocessing`'s) images are brought to them; else
    all must be of one size and one mode (grey, RGB or RGBA). Labels are the places of the classes' names in order.
    Raises ``DataError`` for the first image that does not fit or cannot be read, and for a folder of another form.
    """
    count = _Count()
    path, notes = _unwrapped(path, count)
    splits = _splits(path, count)
    roots = splits or {"train": path}
    folders = {split: [p for p in count.visible(root) if p.is_dir()] for split, root in roots.items()}
    if not folders["train"]:
        where = roots["train"]
        raise DataError(f"{where} has no sub-folders", "put the images of each class into a sub-folder of its own")
    classes = tuple(p.name for p in folders["train"])
    for split, every in folders.items():
        if unknown := [p.name for p in every if p.name not in classes]:
            fact = f"{roots[split]} has the classes {listed(unknown)}, which {roots['train']} has not"
            raise DataError(fact, "give each split the same sub-folders")
        _beside(roots[split], count)
    reader = _Reader(wanted)
    parts = {split: _images(every, classes, reader, count) for split, every in folders.items()}
    notes.append(f"classes are numbered in the order of their names: {', '.join(classes[:10])}")
    notes[-1] += ", ..." if len(classes) > 10 else ""
    if splits:
        notes.append(f"the folders {', '.join(root.name for root in roots.values())} were taken as splits")
    return Folder(parts, classes, (*notes, *reader.notes, *count.notes))


def _unwrapped(path: Path, count: _Count) -> tuple[Path, list[str]]:
    """``path``, or the one folder in it where an archive was packed with a folder around everything."""
    inner = [p for p in count.visible(path) if p.is_dir()]
    if len(inner) == 1 and inner[0].name.lower() not in TRAIN and any(p.is_dir() for p in inner[0].iterdir()):
        return inner[0], [f"the images were looked for in the one folder of {path}, {inner[0].name}"]
    count.hidden.clear()  # it is looked at again
    return path, []


def _splits(path: Path, count: _Count) -> dict[str, Path]:
    """The folders of splits, where there are no others. Raises ``DataError`` where what is beside them would make all
    of them classes, though there are classes in them."""
    inner = [p for p in _Count().visible(path) if p.is_dir()]
    splits: dict[str, Path] = {}
    for folder in inner:
        for split, names in (("train", TRAIN), ("val", VALID), ("test", TEST)):
            if folder.name.lower() in names and split not in splits:
                splits[split] = folder
    if not inner or len(splits) < len(inner):
        named = [folder for folder in inner if folder.name.lower() in (*TRAIN, *VALID, *TEST)]
        if len(named) > 1 and all(map(_holds_folders_alone, named)):
            beside = listed(folder.name for folder in inner if folder not in splits.values())
            held = ", ".join(folder.name for folder in splits.values())
            fact = f"{path} has the splits {held}, and beside them {beside}"
            raise DataError(fact, "take out of it what is no split, or give the folder of the split to use")
        return {}
    if "train" not in splits:
        held = ", ".join(folder.name for folder in inner)
        raise DataError(f"{path} has the splits {held} and no train", "give the folder of a split, or add train")
    _beside(path, count)
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _holds_folders_alone(folder: Path) -> bool:
    """Whether there are folders in it and no images beside them."""
    inner = _Count().visible(folder)
    return any(p.is_dir() for p in inner) and not any(p.suffix.lower() in readable() for p in inner)


def _beside(folder: Path, count: _Count) -> None:
    """Count the files that lie beside the folders."""
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith(".") and path.name not in LEFT_BEHIND:
            count.other[path.suffix.lower() or "without a suffix"] += 1


def _files(folder: Path, count: _Count, around: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The images below ``folder``; other files are counted, and links to folders ``around`` it."""
    around = (*(around or folder.resolve().parents), folder.resolve())
    for path in count.visible(folder):
        if path.is_dir() and path.resolve() in around:
            count.other[CIRCLE] += 1
        elif path.is_dir():
            yield from _files(path, count, around)
        elif path.exists() and not path.is_file():  # a pipe, which would be waited for
            count.other[SPECIAL] += 1
        elif path.suffix.lower() in readable():
            yield path
        else:
            count.other[path.suffix.lower() or "without a suffix"] += 1


def readable() -> tuple[str, ...]:
    """The suffixes of images that are read, as far as the Pillow that is installed can."""
    from PIL import Image

    Image.init()
    return tuple(suffix for suffix in SUFFIXES if Image.registered_extensions().get(suffix) in Image.OPEN)


def _formats() -> list[str]:
    """Pillow's names of them. It takes a file for what is in it, and has others read some by a program of theirs."""
    from PIL import Image

    return sorted({Image.registered_extensions()[suffix] for suffix in readable()})


def _images(
    folders: list[Path], classes: tuple[str, ...], reader: _Reader, count: _Count
) -> tuple[np.ndarray, np.ndarray]:
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    for folder in folders:
        before = Counter(count.other)
        files = list(_files(folder, count))
        if not files:
            there = ", ".join(f"{n} {suffix}" for suffix, n in sorted((count.other - before).items()))
            fact = f"{folder} holds no images{f', but {there}' if there else ''} ({', '.join(readable()[:6])}, ...)"
            raise DataError(fact, "fill it or remove it; each sub-folder is a class")
        pixels += [reader(file) for file in files]
        labels += [classes.index(folder.name)] * len(files)
    x = np.stack(pixels)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x[:, None]
    return x, np.array(labels)


class _Reader:
    """Reads one image after the other, and holds all to one size and mode."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self.size: tuple[int, int] | None = wanted.get("image_size")
        self.resize = wanted.get("resize", CROP)
        order = wanted.get("channel_order")
        self.mode = None if order is None else "L" if order == "L" else "RGB"
        self.first: tuple[tuple[int, int], str] | None = None
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.modes: Counter[str] = Counter()
        self.turned: int = 0
        self.animated: int = 0

    def __call__(self, file: Path) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(file, formats=_formats()) as image:
                turned = image.format == "TIFF" and orientation(image) != 1  # Pillow turns it as it is loaded
                image.load()
                self.turned += turned or orientation(image) != 1
                self.modes[image.mode] += 1
                pixels = np.asarray(self._fitted(file, image))
                self.animated += _is_animated(image)
                return pixels
        except EdgeSdkError:
            raise
        except Exception as error:  # each format's reader has its own
            raise DataError(f"{file} cannot be read as an image ({said(error)})", "replace or remove it") from None

    @property
    def notes(self) -> list[str]:
        lines = []
        if self.size is not None and set(self.sizes) != {self.size[::-1]}:
            how = "scaled by the shorter side and cut out of the centre" if self.resize == CROP else "stretched"
            lines.append(f"images of {counted(len(self.sizes), 'size')} were {how} to {self.size[0]}x{self.size[1]}")
        if self.turned:
            lines.append(f"{counted(self.turned, 'image')} turned upright, as the camera noted in EXIF")
        if self.animated:
            lines.append(f"{counted(self.animated, 'image')} of several frames: the first of each was taken")
        deep = sum(n for mode, n in self.modes.items() if mode.startswith("I"))
        if deep:
            lines.append(f"{counted(deep, 'image')} with 16 bits a pixel: taken as 8")
        changed = {mode: n for mode, n in self.modes.items() if self.mode not in (None, mode)}
        if changed:
            kinds = ", ".join(f"{n} {mode}" for mode, n in sorted(changed.items()))
            lines.append(f"images were converted to {self.mode}: {kinds}")
        return lines

    def _fitted(self, file: Path, image: Image.Image) -> Image.Image:
        image = as_mode(image, self.mode or ("RGB" if image.format == "GIF" else None))  # which has a palette always
        self.sizes[image.size] += 1
        if image.mode not in MODES:
            fact = f"{file} is of mode {image.mode}"
            raise DataError(fact, f"give --channel-order, or convert all images to one of {', '.join(MODES)}")
        if self.size is not None:
            image = resized(image, self.size, self.resize)
        self.first = self.first or (image.size, image.mode)
        if (image.size, image.mode) != self.first:
            fact = f"{file} is {_shown(image.size, image.mode)} where the images before it are {_shown(*self.first)}"
            flags = "--image-size" if image.size != self.first[0] else "--channel-order"
            raise DataError(fact, f"give {flags}, or bring all images to one size and mode")
        return image


def _is_animated(image: Image.Image) -> bool:
    """Whether there is more than one picture in its file."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the next is damaged, which the first need not be
        return True


def _shown(size: tuple[int, int], mode: str) -> str:
    return f"{size[0]}x{size[1]} {mode}"
