"""What in a file of a model would be executed as code when it is read, or when the model that it makes runs.

PyTorch evaluates the expressions of an exported program's sizes, looks its operators up by any path of names, and
writes the names of modules into the code of ``forward`` without escaping them.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from math import inf
from typing import Any

import torch
from torch.utils._sympy import functions as sizes

ACTIVE = re.compile(r'["\\\x00-\x1f\x7f-\x9f]')
"""Characters at which a name in quotes ends, or becomes another."""
OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator)
ARITHMETIC = {  # on numbers that are sizes, as PyTorch exports it
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs", "getitem", "eq", "ne", "lt", "le",
    "gt", "ge", "and_", "or_", "not_", "xor", "lshift", "rshift", "index",
}  # fmt: skip
SIZES = re.compile(r"torch\.(sym_\w+|_sym_sqrt)")
EXPRESSION = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare,
    ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
CLASSES = {  # of SymPy and PyTorch, of which sizes are made
    "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Max", "Min", "Abs", "And", "Or", "Not", "Equality",
    "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan",
    *sizes.__all__,
}  # fmt: skip
POWERS = {"Pow", "PowByNatural", "FloatPow", "LShift"}  # what grows without end by its second argument
EXPONENT = re.compile(r"(?:Integer\()?-?(\d{1,2})\)?|Rational\(-?(?:\d{1,2}), \d{1,2}\)")
HIGHEST = 64  # power of a size, all in an expression taken together
OUTSIDE = {"filename", "group_name"}  # arguments of operators that read or write files, or speak to other processes
WORDS = ("metadata", "as_string", "in_spec", "out_spec", "guards_code", "stack_trace")  # texts that are no names


def sanitize(name: str) -> str:
    """``name`` without what would end it where PyTorch writes it into code."""
    return ACTIVE.sub("_", name)


def find_code(program: Any) -> str | None:
    """What in the JSON of an exported program could be executed; ``None`` where nothing could: PyTorch writes none."""
    return next(_find(program, ""), None)


def _find(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            if ACTIVE.search(str(name)):
                yield f"the name {name!r}"
            if name not in WORDS:
                yield from _find(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from _find(part, key)
    elif isinstance(value, str):
        if key == "expr_str" and not _is_expression(value):
            yield f"the size {value!r}"
        elif key in ("target", "as_operator") and not _is_operator(value):
            yield f"the operator {value!r}"
        elif key != "expr_str" and ACTIVE.search(value):
            yield f"the name {value!r}"


def _is_expression(text: str) -> bool:
    """Whether it is arithmetic on sizes, as SymPy writes it: no attribute, no function but SymPy's, no huge power."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not all(isinstance(node, EXPRESSION) and not isinstance(node, (ast.Pow, ast.LShift)) for node in nodes):
        return False
    called = [node for node in nodes if isinstance(node, ast.Call)]
    names = [ast.unparse(call.func) for call in called]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    powers = [call for call, name in zip(called, names, strict=True) if name in POWERS]
    exponents = math.prod(map(_read_exponent, powers))
    return CLASSES.issuperset(names) and all(map(str.isidentifier, texts)) and exponents <= HIGHEST


def _read_exponent(power: ast.Call) -> float:
    """The number that a power is of; without end where that is no small one."""
    written = ast.unparse(power.args[1]) if len(power.args) == 2 and not power.keywords else ""
    found = EXPONENT.fullmatch(written)
    return inf if found is None else max(1, int(found[1] or 1))


def _is_operator(target: str) -> bool:
    """Whether it is an operator of PyTorch's, or arithmetic, and not what else these modules hold; or is unknown."""
    module, _, name = target.partition(".")
    if module == "_operator":
        return name in ARITHMETIC
    if module == "math":
        return not name.startswith("_") and callable(getattr(math, name, None))
    if not target.startswith("torch.ops."):
        return SIZES.fullmatch(target) is not None or not target.startswith(("torch", "#"))
    found: Any = torch.ops
    for part in target.split(".")[2:]:
        if isinstance(found, OPERATORS) and part.startswith("_"):
            return False
        if not isinstance(found, (*OPERATORS, torch._ops._OpNamespace, torch._ops._Ops)):
            return False
        found = getattr(found, part, None)
        if found is None:
            return True  # which no PyTorch here has: reading it says so
    return isinstance(found, OPERATORS) and not _reaches_out(found)


def _reaches_out(operator: Any) -> bool:
    """Whether an operator reads or writes what is no tensor of the model's."""
    every = [getattr(operator, name) for name in operator.overloads()] if hasattr(operator, "overloads") else [operator]
    given = {argument.name for each in every if hasattr(each, "_schema") for argument in each._schema.arguments}
    return bool(given & OUTSIDE) or getattr(operator, "namespace", "") == "debugprims"
