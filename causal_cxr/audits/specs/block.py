"""``Block``: a part of a specification; its keys are checked, and its paths are relative to the file."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class SpecError(ValueError):
    """The file does not describe an audit; the message names file, line, key and mend."""


class Block(BaseModel):
    """Keys of the file; one that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def beside(self, folder: Path) -> Self:
        """The same with paths, its own and those of the blocks in it, taken from ``folder``."""
        return self.model_copy(update={key: _beside(folder, value) for key, value in self})


def _beside(folder: Path, value: Any) -> Any:
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, Block):
        return value.beside(folder)
    if isinstance(value, dict):
        return {key: _beside(folder, entry) for key, entry in value.items()}
    return value
