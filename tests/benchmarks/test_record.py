"""What benchmarks write down beside their figures."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import record

BENCHMARKS = Path(record.__file__).parent
PEAK = "from record import peak_rss_gb; print(peak_rss_gb())"


def told(program: str) -> list[float]:
    """What a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=BENCHMARKS)
    return [float(line) for line in done.stdout.split()]


def test_a_peak_is_of_what_was_held_even_if_it_is_held_no_more():
    before, after = told(
        "import numpy as np; from record import peak_rss_gb; print(peak_rss_gb());"
        "held = np.ones(50_000_000); del held; print(peak_rss_gb())"
    )
    assert after - before == pytest.approx(0.4, abs=0.05)  # 8 bytes each


@pytest.mark.skipif(not record.STATUS.is_file(), reason="the system does not tell of the program alone")
def test_a_child_does_not_answer_for_what_its_parent_held():
    (alone,) = told(PEAK)
    held = np.ones(100_000_000)  # 0.8 GB
    inherited, own = told(
        "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9);" + PEAK
    )
    assert own == pytest.approx(alone, abs=0.05)
    assert inherited >= held.nbytes / 1e9  # which is why it is not asked


@pytest.mark.skipif(sys.platform == "win32", reason="there is no getrusage")
def test_elsewhere_the_peak_is_that_of_getrusage_in_the_same_unit(monkeypatch, tmp_path):
    here = record.peak_rss_gb()
    for content in (None, "Name:\tpython\n"):  # no such file, or one that does not say
        if content:
            (tmp_path / "status").write_text(content)
        monkeypatch.setattr(record, "STATUS", tmp_path / "status")
        assert record.peak_rss_gb() >= 0.9 * here
        assert record.peak_rss_gb() < 100
