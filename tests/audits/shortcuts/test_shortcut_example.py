"""The example as it stands."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_example_names_the_shortcut_that_it_planted_and_what_carries_it(tmp_path):
    spec = importlib.util.spec_from_file_location("shortcut_audit", ROOT / "examples" / "shortcut_audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    report = module.audited(60, 500, tmp_path)
    first = report.ranked().iloc[0]
    assert (first["attribute"], first["rank"]) == ("view", 1)
    assert first["gain_low"] > 0.1
    assert report.about("effusion")["verdict"] == "legitimate"
    view = report.carriers[report.carriers["attribute"] == "view"]
    assert set(view["concept"]) == {"portable_marker", "ecg_leads", "laterality_marker"}
    assert set(view["how"]) == {"edited alone"}
    assert (tmp_path / "shortcuts.html").read_text().count("<table>") >= 3
