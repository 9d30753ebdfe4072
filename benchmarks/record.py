"""How the benchmarks write down what they measured."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("causal_cxr", "torch", "numpy", "scipy", "pandas", "statsmodels")


def record(file: Path | None, *, seed: int, summary: Mapping[str, object]) -> None:
    """Write a result with all that is needed to get it again; nothing where ``file`` is ``None``."""
    if file is None:
        return
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "command": f"python benchmarks/{Path(sys.argv[0]).name} " + " ".join(sys.argv[1:]),
        "commit": head or "unknown",
        "seed": seed,
        "versions": {package: version(package) for package in PACKAGES},
        "machine": {"python": platform.python_version(), "system": platform.system(), "processor": platform.machine()},
        "summary": summary,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.rename(file)
