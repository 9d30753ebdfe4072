"""Whom a model was fitted on, as far as that is known; written down without loss in little space.

``None``: nobody knows. A ``frozenset``: these patients and no others. :class:`AtLeast`: these, and maybe others, as of a checkpoint
of unknown origin that was then fine-tuned or calibrated on known patients; they are refused like all that are known.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard


class AtLeast(frozenset[str]):
    """Patients who are known to be among those that a model was fitted on; of others nobody knows."""

    def __repr__(self) -> str:
        return f"AtLeast({sorted(self)})"


def all_known(fitted_on: frozenset[str] | None) -> TypeGuard[frozenset[str]]:
    """Whether a model was fitted on these patients and no others, for certain."""
    return fitted_on is not None and not isinstance(fitted_on, AtLeast)


def fitted_on_all(parts: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    """Whom a model was fitted on that is made of parts, or was fitted more than once.

    >>> fitted_on_all([frozenset({"a"}), frozenset({"b"})]) == {"a", "b"}
    True
    >>> fitted_on_all([None, frozenset({"a"})])
    AtLeast(['a'])
    >>> fitted_on_all([None, frozenset()]) is None
    True
    """
    parts = list(parts)
    known = frozenset[str]().union(*(part for part in parts if part is not None))
    if all(all_known(part) for part in parts):
        return known
    return AtLeast(known) if known else None


_NUMBERED = re.compile(r"(.*?)([0-9]{1,18})", re.DOTALL)


def pack(patients: Iterable[str] | None) -> list[Any] | None:
    """Plain data for JSON; :func:`unpack` reads it back.

    Names that end in digits are grouped by what stands before them and by how many digits there are.

    Returns:
        Names, and ``{"prefix", "digits", "numbers"}`` of groups, in an order that depends on the set alone, and ``{"others":
        None}`` last of :class:`AtLeast`; ``None`` for ``None`` (unknown).

    >>> pack({"site-b-007", "site-b-008", "site-b-011", "Ann"})
    ['Ann', {'prefix': 'site-b-', 'digits': 3, 'numbers': '7-8,11'}]
    """
    if patients is None:
        return None
    plain: list[str] = []
    numbered: dict[tuple[str, int], list[int]] = defaultdict(list)
    for name in sorted(set(patients)):
        match = _NUMBERED.fullmatch(name)
        if match is None:
            plain.append(name)
        else:
            numbered[match[1], len(match[2])].append(int(match[2]))
    groups = [
        {"prefix": prefix, "digits": digits, "numbers": ",".join(_runs(numbers))}
        for (prefix, digits), numbers in sorted(numbered.items())
    ]
    return [*plain, *groups, *([{"others": None}] if isinstance(patients, AtLeast) else [])]


def unpack(packed: Sequence[Any] | None) -> frozenset[str] | None:
    """The patients that :func:`pack` wrote, or that a plain list names.

    >>> sorted(unpack(["Ann", {"prefix": "site-b-", "digits": 3, "numbers": "7-8,11"}]))
    ['Ann', 'site-b-007', 'site-b-008', 'site-b-011']
    """
    if packed is None:
        return None
    names: set[str] = set()
    others = False
    for entry in packed:
        if isinstance(entry, str):
            names.add(entry)
            continue
        if "others" in entry:
            others = True
            continue
        for run in entry["numbers"].split(","):
            first, _, last = run.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            names.update(f"{entry['prefix']}{number:0{entry['digits']}d}" for number in numbers)
    return AtLeast(names) if others else frozenset(names)


def _runs(numbers: list[int]) -> list[str]:
    """``"first-last"`` of the runs in increasing numbers; ``"n"`` where one stands alone."""
    starts = [i for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1] + 1]
    ends = [*starts[1:], len(numbers)]
    spans = [(numbers[start], numbers[end - 1]) for start, end in zip(starts, ends, strict=True)]
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]
