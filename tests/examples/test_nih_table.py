"""The example on the release's table, end to end on a small table of a known model in the release's layout."""

import importlib.util
import json
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "nih_table.py"


def example():
    spec = importlib.util.spec_from_file_location("nih_table", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def release(patients: int = 3000, seed: int = 0) -> pd.DataFrame:
    """Age acts on effusion and on the view, effusion on the view and on atelectasis; mass is by itself. 1 to 3 images each."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    n = len(who)
    age = rng.integers(5, 90, patients)[who]
    sex = rng.choice(["F", "M"], patients)[who]
    effusion = rng.uniform(size=n) < 0.1 + 0.4 * (age > 60)
    atelectasis = rng.uniform(size=n) < np.where(effusion, 0.6, 0.1)
    mass = rng.uniform(size=n) < 0.15
    bed = rng.uniform(size=n) < 0.15 + 0.25 * (age > 60) + 0.4 * effusion
    flags = pd.DataFrame({"Effusion": effusion, "Atelectasis": atelectasis, "Mass": mass})
    labels = ["|".join(flags.columns[row]) or "No Finding" for row in flags.to_numpy()]
    age[0] = 412  # a typing error, as the release has
    return pd.DataFrame(
        {
            "Image Index": [f"{i:08d}.png" for i in range(n)],
            "Finding Labels": labels,
            "Patient ID": who,
            "Patient Age": age,
            "Patient Gender": sex,
            "View Position": np.where(bed, "AP", "PA"),
        }
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    release().to_csv(folder / "Data_Entry_2017_v2020.csv.gz", index=False)
    arguments = ["--data", str(folder / "Data_Entry_2017_v2020.csv.gz"), "--out", str(folder / "out"), "--resamples", "4",
                 "--size", "2000", "--processes", "1"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
        example().main()
    return folder / "out"


def test_it_falsifies_the_naive_graph_where_it_is_wrong(done):
    summary = json.loads((done / "summary.json").read_text())
    assert summary["patients"] == 3000 < summary["images"]
    assert summary["naive_graph"]["rejected"] >= 1  # effusion and atelectasis, and age and the view
    assert "effusion and atelectasis" in summary["naive_graph"]["words"]


def test_it_finds_what_is_there_again_and_again(done):
    summary = json.loads((done / "summary.json").read_text())
    shares = {frozenset((row["a"], row["b"])): row["adjacent"] for row in summary["frequencies"]}
    true = [("age", "effusion"), ("age", "view"), ("effusion", "view"), ("effusion", "atelectasis")]
    assert all(shares[frozenset(pair)] == 1.0 for pair in true)
    assert sum(share > 0.5 for share in shares.values()) == len(true)
    fused = nx.parse_graphml((done / "fused.graphml").read_text())
    assert fused.edges["effusion", "view"]["sources"] == "declared, discovered"
    assert (done / "fused.svg").read_text().startswith("<svg")


def test_it_shows_what_adjustment_takes_off(done):
    view = pd.DataFrame(json.loads((done / "summary.json").read_text())["view"]).set_index("finding")
    assert view.loc["atelectasis", "crude"] > 0.1
    assert abs(view.loc["atelectasis", "adjusted"]) < 0.05  # atelectasis goes with the view by way of effusion only
    assert view.loc["effusion", "adjusted_low"] > 0.1
    assert view.loc["mass", "low"] < 0 < view.loc["mass", "high"]


def test_ages_that_are_none_are_missing_and_no_finding_is_no_variable(tmp_path):
    release(50).to_csv(tmp_path / "table.csv", index=False)
    table, patients = example().read_table(tmp_path / "table.csv")
    assert pd.isna(table["age"].iloc[0])
    assert set(table) == {"age", "sex", "view", "effusion", "atelectasis", "mass"}
    assert len(patients) == len(table)
