"""Tests import their own helpers by folder; where several processes share the cores, each computes with one thread."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported
