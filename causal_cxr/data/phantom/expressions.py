"""Formulas of world files: arithmetic over attributes, parsed once, from a whitelist. Nothing else can be called."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import expit

#: What can be called; the number of arguments is in :data:`ARITY`.
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "sigmoid": expit, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "abs": np.abs, "tanh": np.tanh,
    "minimum": np.minimum, "maximum": np.maximum, "clip": np.clip, "where": np.where,
}  # fmt: skip
ARITY: Mapping[str, int] = dict.fromkeys(FUNCTIONS, 1) | {"minimum": 2, "maximum": 2, "clip": 3, "where": 3}
_BINARY: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide, ast.Pow: np.power,
}  # fmt: skip
_COMPARE: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Eq: np.equal, ast.NotEq: np.not_equal, ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}  # fmt: skip
_UNARY: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Not: np.logical_not,
}
LONGEST = 1_000  #: characters; a formula is a line
LARGEST = 1e12  #: number in a formula
DEEPEST = 200  #: brackets and operators inside one another


class Formula:
    """A parsed formula.

    Attribute names are variables: numbers in their own unit, two levels as 0 and 1; any attribute with levels can be
    compared with one of them: ``view == 'AP'``. Comparisons give 0 or 1. Allowed: numbers, ``+ - * / **``, comparisons,
    ``and or not``, and :data:`FUNCTIONS`.

    Raises:
        ValueError: anything else is in it; the message says what.

    >>> Formula("sigmoid(2 * effusion - 1)").names
    frozenset({'effusion'})
    """

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ValueError(f"the formula has {len(text)} characters; {LONGEST} are allowed.")
        try:
            self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"the formula {text!r} cannot be read: {error or 'it is nested too deeply'}") from None
        self.text = text
        names: set[str] = set()
        _check(self._tree, names, DEEPEST)
        self.names = frozenset(names)

    def __call__(self, values: Mapping[str, np.ndarray], levels: Mapping[str, tuple[Any, ...]]) -> np.ndarray:
        """Evaluate.

        Args:
            values: ``(n,)`` codes of every attribute named.
            levels: of the attributes that have levels.

        Raises:
            ValueError: a name is compared with what is none of its levels; one of three or more levels is used as a number.
        """
        with np.errstate(all="ignore"):
            return np.asarray(_evaluate(self._tree, values, levels), dtype=float)

    def __repr__(self) -> str:
        return f"Formula({self.text!r})"


def _check(node: ast.AST, names: set[str], depth: int) -> None:
    """Refuse what is not on the whitelist; collect the variables."""
    if not depth:
        raise ValueError(f"the formula has more than {DEEPEST} operators and brackets inside one another; shorten it.")
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        if isinstance(node.value, int | float) and not isinstance(node.value, bool) and abs(node.value) <= LARGEST:
            return
        if isinstance(node.value, str):
            return
    if isinstance(node, ast.Name):
        names.add(node.id)
        return
    parts = _parts(node)
    if parts is None:
        raise ValueError(
            f"the formula has {ast.unparse(node)!r}; allowed are numbers, attributes, + - * / **, one comparison at a "
            f"time, and/or/not and {', '.join(FUNCTIONS)}."
        )
    for part in parts:
        _check(part, names, depth - 1)


def _parts(node: ast.AST) -> list[ast.expr] | None:
    """What an allowed operation works on; None for all others."""
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return [node.operand]
    if isinstance(node, ast.BoolOp):
        return list(node.values)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARE:
        return [node.left, node.comparators[0]]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        if node.keywords or any(isinstance(part, ast.Starred) for part in node.args):
            return None
        if len(node.args) != ARITY[node.func.id]:
            raise ValueError(
                f"the formula has {ast.unparse(node)!r}; {node.func.id} takes {ARITY[node.func.id]} argument(s)."
            )
        return list(node.args)
    return None


def _evaluate(node: ast.AST, values: Mapping[str, np.ndarray], levels: Mapping[str, tuple[Any, ...]]) -> Any:
    def of(part: ast.AST) -> Any:
        return _evaluate(part, values, levels)

    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            raise ValueError(f"the formula uses the text {node.value!r} as a number; compare an attribute with it.")
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        if len(levels.get(node.id, ())) > 2:
            raise ValueError(
                f"the formula uses {node.id!r} as a number; compare it with one of its levels, {list(levels[node.id])}."
            )
        return values[node.id]
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](of(node.left), of(node.right))
    if isinstance(node, ast.UnaryOp):
        return np.asarray(_UNARY[type(node.op)](of(node.operand)), dtype=float)
    if isinstance(node, ast.BoolOp):
        sides = np.broadcast_arrays(*(np.asarray(of(value)) != 0 for value in node.values))
        return np.asarray((np.all if isinstance(node.op, ast.And) else np.any)(sides, axis=0), dtype=float)
    if isinstance(node, ast.Compare):
        left, right = node.left, node.comparators[0]
        compared = _COMPARE[type(node.ops[0])]
        if isinstance(left, ast.Name) and isinstance(right, ast.Constant) and left.id in levels:
            return np.asarray(compared(values[left.id], _code(left.id, right.value, levels)), dtype=float)
        if isinstance(right, ast.Name) and isinstance(left, ast.Constant) and right.id in levels:
            return np.asarray(compared(_code(right.id, left.value, levels), values[right.id]), dtype=float)
        return np.asarray(compared(of(left), of(right)), dtype=float)
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return FUNCTIONS[node.func.id](*map(of, node.args))


def _code(name: str, value: Any, levels: Mapping[str, tuple[Any, ...]]) -> float:
    """Code of a level; two levels that are words may also be called 0 and 1."""
    known = levels[name]
    if value in known:
        return float(known.index(value))
    if value in (0, 1) and len(known) == 2 and all(isinstance(level, str) for level in known):
        return float(value)
    raise ValueError(f"the formula compares {name} with {value!r}; its levels: {list(known)}.")
