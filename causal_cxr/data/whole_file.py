"""Files that are there whole or not at all: written beside, then renamed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def whole_file(file: str | Path) -> Iterator[Path]:
    """A path beside ``file`` to write to, which becomes ``file`` when the block ends.

    Where the block fails nothing is left behind, and what was there before stays. Of several writers at once each writes its
    own, and the last one's stays. Missing folders are made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "new" / "numbers.txt") as partial:
    ...         _ = partial.write_text("1 2 3")
    ...     [path.name for path in Path(folder).glob("new/*")]
    ['numbers.txt']
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_json(file: str | Path, content: Any, *, indent: int | None = 1) -> None:
    """``content`` as JSON in a :func:`whole_file`."""
    with whole_file(file) as partial:
        partial.write_text(json.dumps(content, indent=indent))
