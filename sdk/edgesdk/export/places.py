"""Where the layers of a simulation are: a part of its file that is read without PyTorch."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgesdk.core.errors import BundleError

PLACES = "layers.json"  # in the file, beside the program
AGAIN = "deploy again, with this version of edgesdk"


@dataclass(frozen=True)
class Place:
    """Where the output of ``layer`` is in the program: ``tensor`` as others read it, ``made`` before it is quantized.

    The two are one where it is not quantized. ``inputs`` are the layers and graph inputs that it reads. ``called`` is
    what files that are made of the network call the output as it is ``made``, and what lies within the layer before it.
    """

    layer: str
    tensor: str
    made: str
    inputs: tuple[str, ...]
    called: tuple[str, ...] = ()


def read_places(path: Path) -> tuple[tuple[str, ...], tuple[Place, ...]]:
    """The outputs of the simulation at ``path``, in order, and its layers. Raises ``BundleError`` for another file."""
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(f"/{PLACES}")]
            told = json.loads(archive.read(name))
        places = tuple(
            Place(
                str(each["layer"]),
                str(each["tensor"]),
                str(each["made"]),
                tuple(map(str, each["inputs"])),
                tuple(map(str, each.get("called", [each["made"]]))),
            )
            for each in told["places"]
        )
        return tuple(map(str, told["outputs"])), places
    except Exception:  # of zipfile, zlib and json, and what is not there
        raise BundleError(f"{path} does not say where its layers are", AGAIN) from None
