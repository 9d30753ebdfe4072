"""What ships: small models for the phantoms, opened only by name."""

import json
from pathlib import Path


def shipped(name: str) -> Path:
    """The folder of shipped weights.

    Raises:
        FileNotFoundError: nothing of that name ships.
        RuntimeError: the weights were fitted on another version of the phantom's renderer.
    """
    from causal_cxr.data.phantom import VERSION

    here = Path(__file__).parent
    folder = here / name
    configs = [folder / file for file in ("editor.json", "reader.json") if (folder / file).is_file()]
    if not configs:
        there = sorted(p.name for p in here.iterdir() if (p / "card.md").is_file())
        raise FileNotFoundError(f"No weights {name!r} ship with causal_cxr; there are {there}.")
    version = json.loads(configs[0].read_text())["renderer_version"]
    if version != VERSION:
        raise RuntimeError(
            f"Weights {name!r} were fitted on renderer version {version}, this is version {VERSION}: refit them with the "
            f"command in {folder / 'card.md'}."
        )
    return folder
