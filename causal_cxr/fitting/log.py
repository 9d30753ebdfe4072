"""A fit's log: one JSON line an entry."""

import json
from pathlib import Path

from causal_cxr.data.whole_file import whole_file


class Log:
    """A JSON line an entry, each with the step; a resumed fit forgets what lies beyond the step it goes on from.

    Args:
        file: ``None`` keeps none.
        step: done so far.
    """

    def __init__(self, file: Path | None, step: int) -> None:
        self.file = file
        if file is None or not file.exists():
            return
        kept = [line for line in file.read_text().splitlines() if json.loads(line)["step"] <= step]
        with whole_file(file) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept))

    def add(self, **entry: float) -> None:
        """One line more."""
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)  # the first entry may come before the first state
            with self.file.open("a") as log:
                log.write(json.dumps(entry) + "\n")
