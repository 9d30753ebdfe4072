"""How the benchmarks write down what they measured."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from scipy import stats

from causal_cxr.data.whole_file import whole_file

STATUS = Path("/proc/self/status")  #: of this process, where the system tells
PACKAGES = ("causal_cxr", "torch", "numpy", "scipy", "pandas", "statsmodels")


def record(file: Path | None, *, seed: int, summary: Mapping[str, object]) -> None:
    """Write a result with all that is needed to get it again; nothing where ``file`` is ``None``."""
    if file is None:
        return
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": head or "unknown",
        "seed": seed,
        "versions": {package: version(package) for package in PACKAGES},
        "machine": {"python": platform.python_version(), "system": platform.system(), "processor": platform.machine()},
        "summary": summary,
    }
    with whole_file(file) as partial:
        partial.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


def rate(count: int, runs: int) -> dict[str, object]:
    """A share of runs with its Clopper-Pearson 95% interval.

    >>> rate(0, 100)["interval"]
    [0.0, 0.0362]
    """
    low = stats.beta.ppf(0.025, count, runs - count + 1) if count else 0.0
    high = stats.beta.ppf(0.975, count + 1, runs - count) if count < runs else 1.0
    return {
        "count": count,
        "runs": runs,
        "rate": round(count / runs, 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


def peak_rss_gb() -> float:
    """Resident memory of this process at its peak, in 1e9 bytes.

    Of Linux it is asked for the memory of this program alone: what ``getrusage`` says of a child is no less than its parent
    had when it started it.
    """
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
