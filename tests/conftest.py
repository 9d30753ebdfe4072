"""Tests import their own helpers by folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
