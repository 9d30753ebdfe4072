"""Sets of patients, written down without loss in little space: numbered names as runs of their numbers."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

_NUMBERED = re.compile(r"(.*?)([0-9]{1,18})", re.DOTALL)


def pack(patients: Iterable[str] | None) -> list[Any] | None:
    """Plain data for JSON; :func:`unpack` reads it back.

    Names that end in digits are grouped by what stands before them and by how many digits there are.

    Returns:
        Names, and ``{"prefix", "digits", "numbers"}`` of groups, in an order that depends on the set alone; ``None`` for
        ``None`` (unknown).

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
    return [*plain, *groups]


def unpack(packed: Sequence[Any] | None) -> frozenset[str] | None:
    """The patients that :func:`pack` wrote, or that a plain list names.

    >>> sorted(unpack(["Ann", {"prefix": "site-b-", "digits": 3, "numbers": "7-8,11"}]))
    ['Ann', 'site-b-007', 'site-b-008', 'site-b-011']
    """
    if packed is None:
        return None
    names: set[str] = set()
    for entry in packed:
        if isinstance(entry, str):
            names.add(entry)
            continue
        for run in entry["numbers"].split(","):
            first, _, last = run.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            names.update(f"{entry['prefix']}{number:0{entry['digits']}d}" for number in numbers)
    return frozenset(names)


def _runs(numbers: list[int]) -> list[str]:
    """``"first-last"`` of the runs in increasing numbers; ``"n"`` where one stands alone."""
    starts = [i for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1] + 1]
    ends = [*starts[1:], len(numbers)]
    spans = [(numbers[start], numbers[end - 1]) for start, end in zip(starts, ends, strict=True)]
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]
