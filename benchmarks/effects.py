"""Do intervals cover, and how long does a whole family of tests take?

*Coverage*: simulated analyses of which the truth is known, patients of unequally many images, tied scores. Seven scenarios,
each judging one kind of interval at level 95%; what else may be asked of the same data stands beside it.

*Speed*: 200 concepts x 50 interventions x 1,000 images x 10,000 sign flips in a process of its own, against a loop over
``scipy.stats.permutation_test``, of which some cells are measured and the rest is extrapolated; and both on the same flips.

    python benchmarks/effects.py --json benchmarks/results/effects.json --seed 0

Run it while nothing else runs. Where ``benchmarks/effects_anytime.py`` is there, what its ``measure(seed)`` finds of
stopped audits is added to the summary.
"""

import argparse
import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from calibration import LARGE, SHOWN, THETAS, Sample, draw_patients, edited, judge, logistic_coefficients
from record import peak_rss_gb, rate, record
from scipy import stats
from threadpoolctl import threadpool_limits

from causal_cxr.audits.effects import (
    Effect,
    IntervalEstimate,
    bootstrap_interval,
    cross_fitted_effect,
    draw_signs,
    fieller_interval,
    g_computation,
    hodges_lehmann,
    paired_effect,
    prediction_powered_effect,
    probability_of_improvement,
    signflip_test,
)

PATIENTS = 128
CONCEPTS, INTERVENTIONS, IMAGES, DRAWS = 200, 50, 1_000, 10_000
SCIPY_CELLS = 3  #: whose time is measured
SAME_FLIPS = 1_000  #: draws on which both are compared
RESAMPLES = 1_999  #: of patients, a bootstrap interval
Found = Mapping[str, bool]  #: by estimator, whether its interval held the truth; the first is the scenario's


@dataclass(frozen=True)
class Scenario:
    """One kind of interval, and data that are hard on it."""

    what: str
    simulate: Callable[[np.random.Generator], Found]
    runs: int


def holds(estimate: Effect | IntervalEstimate, truth: float) -> bool:
    """Whether the 95% interval does."""
    if isinstance(estimate, IntervalEstimate):
        return estimate.covers(truth)
    low, high = estimate.interval()
    return bool(low <= truth <= high)


# --- coverage


def corrected_for_slope(rng: np.random.Generator) -> Found:
    """Paired effects of flips in patients of 1 to 12 images, over a slope estimated on other patients."""
    slope = rng.uniform(0.4, 0.8)
    estimate, error = (float(x[0]) for x in judge(np.array([slope]), rng))
    effect = edited(PATIENTS, 12, slope, rng)["editor"][THETAS.index(LARGE)]
    return {
        "delta method": holds(effect.scaled(estimate, error), LARGE),
        "Fieller": holds(fieller_interval(effect, estimate, error), LARGE),
    }


def skewed_flips(rng: np.random.Generator) -> Found:
    """No effect; few patients lose the concept in all their images, four times as many gain it in a quarter of theirs."""
    (effect, *_) = edited(2 * PATIENTS, 12, 0.6, rng, skewed=True)["editor, skewed flips"]
    return {"paired t, CR2": holds(effect, THETAS[0])}


def tied_locations(rng: np.random.Generator) -> Found:
    """Heavy-tailed symmetric patients, scores in hundredths; in tenths, a whole share of which is 0.2, the truth itself."""
    patient = draw_patients(PATIENTS, 5, rng)
    difference = 0.2 + 0.1 * rng.standard_t(3, PATIENTS)[patient] + rng.normal(0, 0.15, len(patient))
    fine, coarse = np.round(difference, 2), np.round(difference, 1)
    return {
        "Hodges-Lehmann": holds(hodges_lehmann(fine, patient), 0.2),
        "Hodges-Lehmann, tenths": holds(hodges_lehmann(coarse, patient), 0.2),
        "paired t, CR2": holds(paired_effect(fine, patient), 0.2),
    }


def tied_improvements(rng: np.random.Generator) -> Found:
    """Patients lean to one side or the other; a change of less than half a standard deviation is none."""
    lean, tie = np.array([-0.6, 0.0, 1.0]), 0.5
    truth = float(np.mean((stats.norm.sf(tie - lean) + stats.norm.sf(-tie - lean)) / 2))  # P(up) + P(tie) / 2
    patient = draw_patients(PATIENTS, 12, rng)
    difference = rng.choice(lean, PATIENTS)[patient] + rng.normal(size=len(patient))
    return {"Wilson, clustered": holds(probability_of_improvement(difference, patient, tie=tie), truth)}


def skewed_means(rng: np.random.Generator) -> Found:
    """Patients' effects are exponential with mean 0.2, in steps of 0.1."""
    patient = draw_patients(PATIENTS, 5, rng)
    own = 0.1 * rng.geometric(1 / 3, PATIENTS) - 0.1  # mean 0.1 * (3 - 1)
    difference = own[patient] + np.round(rng.normal(0, 0.1, len(patient)), 1)
    columns, seed = np.column_stack([difference, np.ones(len(patient))]), int(rng.integers(2**31))
    intervals = {
        name: bootstrap_interval(columns, patient, method=method, draws=RESAMPLES, seed=seed)
        for name, method in (("bootstrap, BCa", "bca"), ("bootstrap, studentised", "studentised"))
    }
    found = {name: holds(interval, 0.2) for name, interval in intervals.items()}
    return found | {"paired t, CR2": holds(paired_effect(difference, patient), 0.2)}


@cache
def _coefficient() -> float:
    """Of the logistic mechanism whose effect in the population is :data:`LARGE`."""
    endless = Sample.draw(np.arange(1_000_000), np.random.default_rng(1))
    return logistic_coefficients(endless)[THETAS.index(LARGE)]


def confounded(rng: np.random.Generator) -> Found:
    """Unedited images; treatment follows age, sex, disease and the patient; the concept's logits are linear."""
    patient = draw_patients(2 * PATIENTS, 5, rng)
    sample = Sample.draw(patient, rng)
    there = rng.uniform(size=len(patient)) < sample.logistic(sample.treatment, _coefficient())
    score = 0.6 * there + rng.normal(0, 0.05, 2 * PATIENTS)[patient] + rng.normal(0, 0.15, len(patient))
    design, low, high = sample.designs(np.arange(len(patient)))
    covariates = np.column_stack([sample.age, sample.age**2, sample.age**3, sample.sex, sample.disease])
    doubly = cross_fitted_effect(
        score[:, None], sample.treatment, covariates, patient, seed=int(rng.integers(2**31))
    ).effects[0]
    (linear,) = g_computation(score[:, None], patient, design, low, high, patient)
    return {"cross-fitted AIPW": holds(doubly, 0.6 * LARGE), "g-computation": holds(linear, 0.6 * LARGE)}


def partly_labelled(rng: np.random.Generator) -> Found:
    """The same population, linear; a quarter of the patients have labels, all have scores of a reader with slope 0.6."""
    patient = draw_patients(2 * PATIENTS, 5, rng)
    sample = Sample.draw(patient, rng)
    there = rng.uniform(size=len(patient)) < sample.linear(sample.treatment, LARGE, 0.4 * LARGE)
    score = 0.6 * there + 0.1 * sample.treatment + rng.normal(0, 0.15, len(patient))  # it follows the treatment too
    labels = np.where((rng.uniform(size=2 * PATIENTS) < 0.25)[patient], there, np.nan)
    standard = np.sort(rng.permutation(len(patient))[: round(len(patient) * SHOWN)])
    found = prediction_powered_effect(labels, score, patient, *sample.designs(standard), patient[standard])
    return {"prediction-powered": holds(found.effect, LARGE), "labels alone": holds(found.classical, LARGE)}


SCENARIOS = {
    "slope_corrected_clusters": Scenario("effect over the reader's slope", corrected_for_slope, 4_000),
    "skewed_rare_flips": Scenario("paired effect of rare flips", skewed_flips, 4_000),
    "hodges_lehmann_ties": Scenario("location of rounded differences", tied_locations, 4_000),
    "improvement_ties": Scenario("probability of improvement", tied_improvements, 4_000),
    "bootstrap_skewed_mean": Scenario("mean of skewed patients", skewed_means, 2_000),
    "aipw_confounded": Scenario("adjusted effect, doubly robust", confounded, 2_000),
    "prediction_powered_labels": Scenario("adjusted effect, some labels", partly_labelled, 2_000),
}


def coverage(name: str, seed: int, runs: int | None = None) -> dict[str, dict[str, object]]:
    """By estimator, how often its interval held the truth, with that share's own interval."""
    scenario = SCENARIOS[name]
    runs = runs or scenario.runs
    rng = np.random.default_rng([seed, list(SCENARIOS).index(name)])
    with threadpool_limits(1):  # small matrices: more threads would only wait for one another
        found = [scenario.simulate(rng) for _ in range(runs)]
    return {estimator: rate(sum(f[estimator] for f in found), runs) for estimator in found[0]}


# --- speed


def draw_family(cells: int, images: int, seed: int) -> np.ndarray:
    """``(images, cells)`` float32 differences as a measurement table holds them, dependent through the image."""
    rng = np.random.default_rng([seed, 99])
    shared = rng.normal(size=(images, 1)).astype(np.float32)
    return shared * np.float32(0.5) + rng.standard_normal((images, cells), dtype=np.float32)


def full_family(cells: int, images: int, draws: int, seed: int) -> tuple[float, float, float]:
    """Seconds of the test by the clock and of all processors, and the largest memory this process ever had, in GB."""
    differences = draw_family(cells, images, seed)
    started, used = time.perf_counter(), time.process_time()
    found = signflip_test(differences, np.arange(images), draws=draws, seed=seed)
    seconds, of_processors = time.perf_counter() - started, time.process_time() - used
    assert found.p.shape == found.p_family.shape == (cells,)
    return seconds, of_processors, peak_rss_gb()


def score_form(sample: np.ndarray, axis: int) -> np.ndarray:
    """The statistic of :func:`causal_cxr.audits.effects.signflip_test`, as scipy asks for it."""
    return np.abs(sample.sum(axis=axis)) / np.sqrt((sample**2).sum(axis=axis))


def scipy_test(difference: np.ndarray, statistic: Callable[..., np.ndarray], draws: int, seed: int):
    """One cell, one image a patient."""
    return stats.permutation_test(
        (difference,), statistic, permutation_type="samples", vectorized=True, alternative="greater",
        n_resamples=draws, random_state=np.random.default_rng(seed),
    )  # fmt: skip


def scipy_seconds(cells: int, images: int, draws: int, seed: int) -> float:
    """Of one cell, the mean over some."""
    differences = draw_family(cells, images, seed).astype(float)
    started = time.perf_counter()
    for cell in differences.T:
        scipy_test(cell, score_form, draws, seed)
    return (time.perf_counter() - started) / cells


def difference_from_scipy(images: int, draws: int, seed: int, cells: int = 5) -> float:
    """Largest difference of a p-value or of any value of the null distribution, on the flips that scipy drew."""
    largest = 0.0
    for number, cell in enumerate(draw_family(cells, images, seed).astype(float).T):
        flips: list[np.ndarray] = []

        def watched(sample: np.ndarray, axis: int, cell: np.ndarray = cell, flips: list = flips) -> np.ndarray:
            flips.append(np.sign(sample * np.sign(cell)).reshape(-1, len(cell)).astype(np.int8))
            return score_form(sample, axis)

        reference = scipy_test(cell, watched, draws, seed + number)
        signs = np.concatenate([flip for flip in flips if len(flip) > 1])
        found = signflip_test(cell[:, None], np.arange(images), signs=signs)
        drawn = [
            signflip_test(flip[:, None] * cell[:, None], np.arange(images), draws=1).statistic[0] for flip in signs
        ]
        largest = max(
            largest, abs(found.p[0] - reference.pvalue), float(np.abs(drawn - reference.null_distribution).max())
        )
    return largest


def speed(cells: int, images: int, draws: int, seed: int, scipy_cells: int = SCIPY_CELLS) -> dict[str, object]:
    """The whole family here, a part of it by scipy."""
    draw_signs(2, 2, seed)  # imports are not what is timed
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        load = os.getloadavg()[0]
        seconds, of_processors, gigabytes = apart.submit(full_family, cells, images, draws, seed).result()
    each = scipy_seconds(scipy_cells, images, draws, seed)
    return {
        "seconds_full_family": round(seconds, 4),
        "speedup_vs_scipy": round(each * cells / seconds, 1),
        "peak_rss_gb": round(gigabytes, 3),
        "processor_seconds_full_family": round(of_processors, 4),
        "load_before": round(load, 2),  # of other work: what waits for a processor is in the seconds too
        "scipy_seconds_a_cell": round(each, 4),
        "scipy_cells_measured": scipy_cells,
        "largest_difference_from_scipy": difference_from_scipy(images, min(draws, SAME_FLIPS), seed),
        "family": {"cells": cells, "images": images, "draws": draws},
    }


def main() -> None:
    """Simulate, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--runs", type=int, help="simulated, for each scenario, instead of its own number")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    started = time.monotonic()
    fast = speed(CONCEPTS * INTERVENTIONS, IMAGES, DRAWS, arguments.seed)
    for key, value in fast.items():
        print(key, value, flush=True)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        tables = workers.map(partial(coverage, seed=arguments.seed, runs=arguments.runs), SCENARIOS)
        found = dict(zip(SCENARIOS, tables, strict=True))
    for name, table in found.items():
        print(f"\n{name}: {SCENARIOS[name].what}")
        for estimator, share in table.items():
            print(f"  {estimator:24} {share['rate']:.4f} {share['interval']} of {share['runs']}")
    headline = {name: next(iter(table.values()))["rate"] for name, table in found.items()}
    summary: dict[str, object] = {"coverage": headline, **fast, "coverage_of_all": found, "patients": PATIENTS}
    if importlib.util.find_spec("effects_anytime"):
        summary |= importlib.import_module("effects_anytime").measure(arguments.seed)
    summary["seconds"] = round(time.monotonic() - started)
    record(arguments.json, seed=arguments.seed, summary=summary)


if __name__ == "__main__":
    main()
