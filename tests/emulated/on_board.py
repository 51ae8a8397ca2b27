"""What runs on a board in these tests. NumPy, a runtime and a bundle's ``run.py`` are all that it takes.

    python on_board.py RUN_PY outputs RUNTIME INPUTS.npz MODEL OUTPUTS.npz [MODEL OUTPUTS.npz]...
    python on_board.py RUN_PY count[:RUNS] RUNTIME INPUTS.npz MODEL...

Both run one sample at a time. ``count`` marks, for the counter of instructions, the places before and after RUNS runs,
20 unless it says how many.
"""

import contextlib
import importlib.util
import os
import sys

import numpy as np

MARK = 1000000  # as in count.c: a file descriptor that is never open
WARM, RUNS = 2, 20


def mark():
    with contextlib.suppress(OSError):
        os.close(MARK)


def outputs(model, samples):
    """The model's outputs for all samples, by name."""
    rows = [model.run(sample) for sample in samples]
    return {name: np.concatenate(parts) for name, parts in zip(model.outputs, zip(*rows, strict=True), strict=True)}


def main(run_py, task, runtime, inputs, *paths):
    spec = importlib.util.spec_from_file_location("run", run_py)
    assert spec is not None and spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    given = dict(np.load(inputs))
    count = len(next(iter(given.values())))
    samples = [{name: value[i : i + 1] for name, value in given.items()} for i in range(count)]
    task, _, runs = task.partition(":")
    if task == "count":
        for path in paths:
            model = run.opened(path, runtime)
            for times in (WARM, int(runs or RUNS)):
                for _ in range(times):
                    model.run(samples[0])
                mark()
        return
    for path, made in zip(paths[::2], paths[1::2], strict=True):
        np.savez(made, **outputs(run.opened(path, runtime), samples))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
