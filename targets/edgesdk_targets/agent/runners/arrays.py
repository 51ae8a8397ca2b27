"""What the runners share: descriptions of inputs, and arrays for them."""

from __future__ import annotations

from typing import Any, Sequence

import numpy

from edgesdk_targets.agent.protocol import MISSING, STORAGE, USAGE, AgentError

SEED = 0
ALIGNMENT = 64


def describe(name: str, shape: Sequence[Any], dtype: str | None, told: object) -> dict[str, Any]:
    """``{"name", "shape", "dtype"}`` of an input, a dimension that is no positive number being 1.

    Raises ``AgentError`` where ``dtype`` is ``None``, which the runtime calls ``told``.
    """
    if dtype is None:
        fact = f"the input {name} is a {told}"
        raise AgentError(USAGE, fact, "export the model with tensors of numbers as inputs")
    sizes = [size if isinstance(size, int) and size > 0 else 1 for size in shape]
    return {"name": name, "shape": sizes, "dtype": dtype}


def sample(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Values for ``inputs``: normally distributed floats from a fixed seed, zeros of any other type."""
    generator = numpy.random.default_rng(SEED)
    values = {}
    for item in inputs:
        array = values[item["name"]] = _empty(item["shape"], item["dtype"])
        if item["dtype"] in ("float32", "float64"):
            generator.standard_normal(out=array, dtype=item["dtype"])
        else:
            array[...] = generator.standard_normal(item["shape"]) if item["dtype"] == "float16" else 0
    return values


def read_inputs(path: str) -> dict[str, Any]:
    """The arrays of an ``.npz`` file, by input name."""
    try:
        with numpy.load(path, allow_pickle=False) as archive:
            return {name: _aligned(archive[name]) for name in archive.files}
    except FileNotFoundError:
        raise AgentError(MISSING, f"{path} is not on this device", "send the file first") from None
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        fact = f"{path} is no .npz file ({type(error).__name__}: {error!s:.200})"
        raise AgentError(USAGE, fact, "write it with numpy.savez") from None


def write(path: str, values: Sequence[Any]) -> None:
    """Write ``values`` to an ``.npz`` file, named ``0``, ``1`` and on. Raises ``AgentError`` where it cannot."""
    try:
        with open(path, "wb") as file:
            numpy.savez(file, **{str(place): array for place, array in enumerate(values)})
    except OSError as error:
        fact = f"cannot write {path} on this device: {error.strerror}"
        raise AgentError(STORAGE, fact, "free some space there, or set TMPDIR to a folder with more") from None


def values_for(inputs: list[dict[str, Any]], given: dict[str, Any] | None) -> dict[str, Any]:
    """The arrays to run a model with: those of ``given`` that it takes, else a sample. Raises ``AgentError``."""
    if given is None:
        return sample(inputs)
    names = [item["name"] for item in inputs]
    if missing := [name for name in names if name not in given]:
        fact = f"the inputs lack {', '.join(missing)}"
        raise AgentError(USAGE, fact, f"give an array for each of {', '.join(names)}")
    for item in inputs:
        dtype = str(given[item["name"]].dtype)
        if dtype != item["dtype"]:
            fact = f"the input {item['name']} is {dtype}, the model takes {item['dtype']}"
            raise AgentError(USAGE, fact, "save it with that dtype")
    return {name: numpy.asarray(given[name], order="C") for name in names}


def difference(actual: Sequence[Any], expected: Any) -> tuple[float, bool]:
    """How far the rows ``actual`` are from ``expected``, and whether they are equal to the bit.

    The distance is the root mean square over the standard deviation of ``expected``; infinite between two shapes and
    where a number is none.
    """
    whole = numpy.concatenate(actual)
    if whole.shape != expected.shape:
        return float("inf"), False
    wanted = expected.astype("float64")
    error = float(numpy.sqrt(numpy.mean((whole - wanted) ** 2)) / max(float(wanted.std()), 1e-12))
    identical = whole.dtype == expected.dtype and whole.tobytes() == expected.tobytes()
    return (error if numpy.isfinite(error) else float("inf")), identical


def _empty(shape: Any, dtype: Any) -> Any:
    # Memory that begins where the runtime's own would. NumPy's begins at any multiple of 16, and some kernels take
    # 10 % longer with that, which a tiny model would show in one process and not in the next.
    size = int(numpy.prod(shape, dtype=numpy.int64)) * numpy.dtype(dtype).itemsize
    memory = numpy.empty(size + ALIGNMENT, numpy.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].view(dtype).reshape(shape)


def _aligned(array: Any) -> Any:
    copy = _empty(array.shape, array.dtype)
    copy[...] = array
    return copy
