"""Which operators of a TFLite file the kernels are of that LiteRT's profiler tells.

Its own kernels it tells by the operator's number. XNNPACK's it tells for each part of the file that XNNPACK took, in
the order in which that was given the operators: an operator is one or several of them, or is fused into one. Those with
weights are always one, so that they keep the two in step; between them, kinds are known by their names.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Sequence, Tuple

from edgesdk_targets.agent import clock
from edgesdk_targets.agent.runners.litert_profiler import OWN, Event, Lacking
from edgesdk_targets.agent.runners.tflite_session import DELEGATE, WEIGHTED, parts

LOW, HIGH = 0.1, 0.9  # what eight of ten runs of a kernel lie between
PRODUCTS = (*WEIGHTED, "BATCH_MATMUL")
MULTIPLIES = re.compile(r"Convolution|Deconvolution|.*Fully Connected|Batch Matrix Multiply")
BORDERS = ("PAD", "PADV2")
ACTIVATION = "Clamp"  # of its own where an operator that is no product has one
ALIASES = {
    "convert": ("QUANTIZE", "DEQUANTIZE", "CAST"),
    "clamp": ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"),
    "staticreshape": ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
    "copy": ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "CONCATENATION", "SPLIT"),
    "concatenate": ("CONCATENATION",),
    "constantpad": ("PAD", "PADV2"),
    "sigmoid": ("LOGISTIC",),
    "slice": ("SLICE", "STRIDED_SLICE"),
    "squareroot": ("SQRT",),
    "reciprocalsquareroot": ("RSQRT",),
    "approxgelu": ("GELU",),
}  # by XNNPACK's name of a kind
Operators = Sequence[Dict[str, Any]]


def timed(
    kernels: Sequence[Dict[str, Any]], operators: Operators, runs: Sequence[Sequence[Event]]
) -> List[Dict[str, Any]]:
    """The ``kernels`` of a file, one for each of its ``operators``, in the order in which they ran and with times.

    An operator that is fused into another's kernel is told with that; kernels of no operator are told together, by
    their kind. Raises ``Lacking`` where the ``runs`` are of other operators.
    """
    plain = [item for item in operators if item["op_name"] != DELEGATE]
    own = dict(zip([int(item["index"]) for item in plain], kernels))
    of = _assign(operators, runs[0])
    times: Dict[Any, List[int]] = {}  # by operator, and what is of none by XNNPACK's name
    names: Dict[Any, List[str]] = {}
    for place, event in enumerate(runs[0]):
        key = event.name if of[place] is None else of[place]
        if event.name not in names.setdefault(key, []):
            names[key].append(event.name)
        each = [run[place].us for run in runs[1:] or runs]  # the first is slower
        times[key] = [one + other for one, other in zip(times.get(key, [0] * len(each)), each)]
    fused = _place_fused(plain, set(names))
    whole = sum(_typical(taken) for taken in times.values())
    told = []
    for key, taken in times.items():
        of_none = {"name": "", "operator": names[key][0], "provider": "XNNPACK", "layers": [], "precision": None}
        kernel = dict(own.get(key, of_none))
        for part in ("layers", "held"):
            others = (own[other].get(part, []) for other in fused.get(key, ()))
            kernel[part] = [*kernel.get(part, []), *(name for names in others for name in names)]
        ordered, typical = sorted(taken), _typical(taken)
        told.append(
            dict(
                kernel,
                primitive=", ".join(names[key]),
                share=typical / whole if whole else None,
                profiled_ms=typical / 1e3,
                low_ms=clock.quantile(ordered, LOW) / 1e3,
                high_ms=clock.quantile(ordered, HIGH) / 1e3,
            )
        )
    return told


def _typical(taken: Sequence[int]) -> float:
    """The mean of what eight of ten runs took: whole microseconds as they are would be coarse."""
    ordered = sorted(taken)
    low, high = clock.quantile(ordered, LOW), clock.quantile(ordered, HIGH)
    middle = [us for us in ordered if low <= us <= high] or ordered
    return sum(middle) / len(middle)


def _assign(operators: Operators, run: Sequence[Event]) -> List[Optional[int]]:
    """The index of the operator that each event of a ``run`` is of, if it is of one."""
    by_index = {int(item["index"]): item for item in operators}
    wanted = parts(operators)
    taken = {index for part in wanted for index in part}
    left = {index for index, item in by_index.items() if item["op_name"] != DELEGATE} - taken
    assigned: List[Optional[int]] = []
    begun = 0  # of the parts
    for place, event in enumerate(run):
        if event.kind == OWN:
            if event.number not in left:
                raise Lacking("LiteRT's profiler tells operators that are not in the file")
            assigned.append(event.number)
            continue
        if event.number == 0:
            last = next(
                (at for at in range(place + 1, len(run)) if run[at].kind == OWN or run[at].number == 0), len(run)
            )
            if begun == len(wanted):
                raise Lacking("LiteRT's profiler tells parts that are not in the file")
            assigned += _align([(index, by_index[index]["op_name"]) for index in wanted[begun]], run[place:last])
            begun += 1
    if len(assigned) != len(run) or begun != len(wanted):
        raise Lacking("LiteRT's profiler tells other parts than the interpreter has")
    return assigned


def _align(operators: Sequence[Tuple[int, str]], events: Sequence[Event]) -> List[Optional[int]]:
    """The operator of each of XNNPACK's ``events`` in a part, whose ``operators`` are given in their order."""
    found: List[Optional[int]] = []
    at = -1  # the operator of the last event that is of one
    for event in events:
        product = MULTIPLIES.match(event.name) is not None
        ahead = next(
            (place for place in range(at + 1, len(operators)) if operators[place][1] in PRODUCTS), len(operators)
        )
        if product:
            if ahead == len(operators):
                raise Lacking("XNNPACK tells more products than are in the file")
            at = ahead
            found.append(operators[at][0])
            continue
        fitting = [place for place in range(at + 1, ahead) if _fits(operators[place][1], event.name)]
        if fitting:
            at = fitting[0]
        activation = event.name.startswith(ACTIVATION) and at >= 0
        found.append(operators[at][0] if fitting or activation else None)
    if any(name in PRODUCTS for _, name in operators[at + 1 :]):
        raise Lacking("XNNPACK tells fewer products than are in the file")
    return found


def _fits(operator: str, name: str) -> bool:
    """Whether XNNPACK's ``name`` is one of TFLite's ``operator``: ``MAX_POOL_2D`` is ``Max Pooling (NHWC, F32)``."""
    kind = re.sub(r"[^a-z]", "", name.partition(" (")[0].lower())
    if operator in ALIASES.get(kind, ()):
        return True
    own = re.sub(r"[^a-z]", "", re.sub(r"_[23]D$", "", operator).lower())
    return kind.startswith(own) or own.startswith(kind)


def _place_fused(operators: Operators, kernels: set[Any]) -> Dict[Any, List[int]]:
    """By operator with one of the ``kernels`` those without: a border with what reads it, the rest with what makes what
    they read, and what is left with what reads it."""
    makers = {int(tensor): int(item["index"]) for item in operators for tensor in item["outputs"]}
    readers: Dict[int, List[int]] = {}
    for item in operators:
        for tensor in item["inputs"]:
            if int(tensor) in makers:
                readers.setdefault(makers[int(tensor)], []).append(int(item["index"]))
    with_it: Dict[int, int] = {index: index for index in kernels if isinstance(index, int)}
    before = lambda item: [makers[int(tensor)] for tensor in item["inputs"] if int(tensor) in makers]  # noqa: E731
    behind = lambda item: readers.get(int(item["index"]), [])  # noqa: E731
    borders = [item for item in operators if item["op_name"] in BORDERS]
    for items, beside in ((borders[::-1], behind), (operators, before), (operators[::-1], behind)):
        for item in items:
            known = [with_it[other] for other in beside(item) if other in with_it]
            if known:
                with_it.setdefault(int(item["index"]), known[0])
    fused: Dict[Any, List[int]] = {}
    for index, kernel in with_it.items():
        if index != kernel:
            fused.setdefault(kernel, []).append(index)
    return fused
