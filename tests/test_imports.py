"""Imports run one way, and opening the front door does nothing."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import causal_cxr

PACKAGE = Path(causal_cxr.__file__).parent
MAY_IMPORT = {
    "graphs": "",
    "data": "graphs",
    "fitting": "data",
    "editors": "graphs data fitting weights",
    "statistics": "",
    "readers": "graphs data fitting weights statistics",
    "audits": "graphs data editors readers statistics",
}
HEAVY = ("diffusers", "transformers", "open_clip", "dowhy", "causallearn", "pyro", "sklearn", "torch")


def imported_folders(folder: str) -> set[str]:
    """Folders of the package that any statement in this folder imports, at the top of a file or inside a function."""
    found = set()
    for file in (PACKAGE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found |= {m.split(".")[1] for m in modules if m.startswith("causal_cxr.")}
    return found


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_run_one_way(folder):
    assert imported_folders(folder) <= {folder, *MAY_IMPORT[folder].split()}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("statement", ["import causal_cxr", "from causal_cxr.graphs import CausalGraph"])
def test_the_front_door_loads_nothing_heavy(statement):
    assert not loaded_by(statement) & set(HEAVY)


@pytest.mark.parametrize("folder", ["", ".graphs", ".data", ".fitting", ".readers", ".audits"])
def test_every_public_name_can_be_had(folder):
    module = importlib.import_module(f"causal_cxr{folder}")
    assert all(getattr(module, name) is not None for name in module.__all__)
