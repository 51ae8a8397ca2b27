"""Graphs and plans made up from a seed or by Hypothesis, for the laws that hold on any of them."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from edgesdk.core.budget import BASES, Cost
from edgesdk.core.graph import KINDS, Graph, Layer, Tensor
from edgesdk.core.plan import Form, LayerPlan, Option, Plan, Proof, Rejected

NAMES = st.text(max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
BYTES = st.integers(0, 10**12).map(float)  # documents have whole ones


def random_graph(seed: int) -> Graph:
    """Up to two inputs and a dozen layers, each reading up to three tensors made before; some are read by none."""
    rng = Random(seed)
    tensors = tuple(Tensor(f"input {i}", (rng.randint(1, 8), 4, 4)) for i in range(rng.randint(1, 2)))
    names = [tensor.name for tensor in tensors]
    layers = []
    for index in range(rng.randint(1, 12)):
        reads = tuple(rng.choice(names[-6:]) for _ in range(rng.randint(1, 3)))
        shape = (rng.randint(1, 8), 4, 4)
        layers.append(Layer(f"layer {index}", rng.choice(KINDS), reads, (4, 4, 4), shape, "made up"))
        names.append(layers[-1].name)
    outputs = tuple(dict.fromkeys([names[-1], *rng.sample(names, rng.randint(0, min(2, len(names))))]))
    return Graph(tensors, tuple(layers), outputs)


def options() -> st.SearchStrategy[Option]:
    forms = st.builds(Form, NAMES, st.lists(st.integers(1, 512), max_size=2).map(tuple))
    return st.builds(Option, st.sampled_from(("fp32", "int8")), st.sampled_from((4, 8, 32)), st.none() | forms)


def plans() -> st.SearchStrategy[Plan]:
    """Plans with every field filled in, sensible or not."""
    layers = st.builds(LayerPlan, NAMES, options(), FLOATS, NAMES)
    return st.builds(
        Plan,
        graph_digest=NAMES,
        target=NAMES,
        runtime=NAMES,
        threads=st.integers(1, 64),
        kept=st.dictionaries(NAMES, st.integers(1, 4096), max_size=4),
        layers=st.lists(layers, max_size=4).map(tuple),
        dropped=st.lists(NAMES, max_size=3).map(tuple),
        predicted=st.builds(Cost, FLOATS, BYTES, BYTES, st.sampled_from(BASES)),
        proof=st.builds(Proof, FLOATS, FLOATS, FLOATS, FLOATS, NAMES),
        rejected=st.lists(st.builds(Rejected, NAMES, NAMES, FLOATS, FLOATS), max_size=2).map(tuple),
    )
