"""How often intervals cover, and how often tests reject, when the truth is known.

Measurement level: no pixels. Each simulated analysis draws patients, images, an editor that drifts and a reader of
slope 0.4 to 0.8 whose slope is estimated on 1,000 other images, and gets its intervals and p-values from
:mod:`causal_cxr.audits.effects`, as any audit does.

    python benchmarks/calibration.py --json benchmarks/results/calibration.json \\
        --markdown benchmarks/results/calibration.md --analyses 2000 --seed 0
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from record import rate, record
from scipy.optimize import brentq
from scipy.special import expit

from causal_cxr.audits.effects import Effect, covariate_columns, design_matrix, g_computation, paired_effect

LEVELS = (0.01, 0.05, 0.10)
PATIENTS = (64, 256, 1024)
IMAGES = (1, 3, 12)  #: at most so many a patient, uniformly from 1
HEADLINE = {"patients": 256, "images": 12}
DELTA, LARGE = 0.1, 0.25  #: the smallest effect that counts, and one that is clearly there
JUDGED = 1_000  #: labelled images that a slope is estimated on
DRIFT = 0.05  #: of the editor, in score units: one draw a patient and one an image, in the edit and in its null
FLAGGED, FLIPPED = 0.06, 0.5  #: share of patients with +-1 flips of a rare concept, and of their images that flip
SHOWN = 1 / 3  #: of the unedited images, those that were edited: the standardisation sample
LARGEST_AGE = 1.7
VARIED = 0.4  #: what the effect differs between men and women

QUESTIONS = {
    "theta = 0 rejected": (0.0, lambda e: e.p_yes(0.0)),
    "interval misses theta": (LARGE, lambda e: replace(e, value=e.value - LARGE).p_yes(0.0)),
    "yes at |theta| = delta": (DELTA, lambda e: e.p_yes(DELTA)),
    "no at |theta| = delta": (DELTA, lambda e: e.p_no(DELTA)),
}  #: question -> the true effect, and the p-value that is small as often as its level says
THETAS = (0.0, DELTA, LARGE)
Columns = dict[str, Sequence[Effect]]  #: by side, an effect for each of THETAS


def draw_patients(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """The patient of each image: ``n`` patients of 1 to ``most`` images."""
    return np.repeat(np.arange(n), rng.integers(1, most + 1, size=n))


def judge(slopes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Estimated slopes and their patient-clustered errors, each from :data:`JUDGED` labelled images of its own.

    Args:
        slopes: ``(s,)`` the true ones.
        rng: of the images.
    """
    patient = draw_patients(JUDGED, 3, rng)[:JUDGED]
    first = np.flatnonzero(np.diff(patient, prepend=-1))
    shape = (len(slopes), len(first))
    present = rng.uniform(size=(len(slopes), JUDGED)) < rng.beta(1.5, 1.5, size=shape)[:, patient]
    noise = rng.normal(0, 0.05, shape)[:, patient] + rng.normal(0, 0.15, present.shape)
    scores = slopes[:, None] * present + noise
    estimate, influence = np.zeros(len(slopes)), np.zeros(present.shape)
    for sign, group in ((1, present), (-1, ~present)):
        n = group.sum(axis=1, keepdims=True)
        mean = (scores * group).sum(axis=1, keepdims=True) / n
        estimate += sign * mean[:, 0]
        influence += sign * group * (scores - mean) / n
    return estimate, np.sqrt((np.add.reduceat(influence, first, axis=1) ** 2).sum(axis=1))


# --- the editor's side


def edited(n: int, most: int, slope: float, rng: np.random.Generator, *, skewed: bool = False) -> Columns:
    """Paired differences of one audit.

    An edit adds the concept to an image with a probability of its patient's own, which is higher for patients of many
    images, and whose mean over images is theta. Flips of the rare concept have mean 0, and drift is on top.
    """
    patient = draw_patients(n, most, rng)
    images = np.bincount(patient)
    each = np.arange(1, most + 1)
    trend = (0.5 + 0.5 * images / ((each**2).sum() / each.sum()))[patient]  # its mean over images is 1
    if skewed:  # some patients lose the concept in all images, four times as many gain it in a quarter
        fate = rng.choice(3, size=n, p=[1 - 0.15, 0.03, 0.12])[patient]
        flip = np.select([fate == 1, (fate == 2) & (rng.uniform(size=len(patient)) < 0.25)], [-1, 1], 0)
        flipping = 0.03 + 0.03
    else:
        sign = rng.choice([-1, 1], size=n) * (rng.uniform(size=n) < FLAGGED)
        flip = sign[patient] * (rng.uniform(size=len(patient)) < FLIPPED)
        flipping = FLAGGED * FLIPPED
    drift = (rng.normal(0, DRIFT, (n, 2))[patient] + rng.normal(0, DRIFT, (len(patient), 2))) @ [1, -1]
    uniform, first = rng.uniform(size=len(patient)), np.flatnonzero(np.diff(patient, prepend=-1))
    effects = []
    for theta in THETAS:
        mean = np.maximum(theta / (1 - flipping) * trend, 1e-12)
        own = rng.beta(3 * mean[first], 3 * (1 - mean[first]))
        moved = np.where(flip != 0, flip, (uniform < own[patient]) & (theta > 0))
        effects.append(paired_effect(slope * moved + drift, patient))
    return {"editor, skewed flips" if skewed else "editor": effects}


# --- the adjusted side


@dataclass(frozen=True)
class Sample:
    """Images of a confounded population; numbers are ``(n,)``, an image each."""

    patient: np.ndarray
    age: np.ndarray  #: of the patient, uniform in +-LARGEST_AGE
    sex: np.ndarray  #: of the patient, 0/1
    disease: np.ndarray  #: of the image, 0/1, more often in the old
    treatment: np.ndarray  #: 0/1, follows all three; of the patient: age and sex
    frailty: np.ndarray  #: of the patient, uniform in +-1, acts on the outcome only

    @staticmethod
    def draw(patient: np.ndarray, rng: np.random.Generator, *, patient_level: bool = False) -> "Sample":
        """Everything but the outcome."""
        n = int(patient.max()) + 1
        age = rng.uniform(-LARGEST_AGE, LARGEST_AGE, n)
        sex = (rng.uniform(size=n) < 0.5).astype(float)
        frailty, habit, coin = rng.uniform(-1, 1, n)[patient], rng.normal(0, 0.5, n)[patient], rng.uniform(size=n)
        age, sex = age[patient], sex[patient]
        disease = (rng.uniform(size=len(patient)) < expit(-1 + 0.8 * age)).astype(float)
        lean = -0.8 + 0.8 * age + 0.6 * sex + habit + (0.0 if patient_level else 0.7) * disease
        chance = coin[patient] if patient_level else rng.uniform(size=len(patient))
        return Sample(patient, age, sex, disease, (chance < expit(lean)).astype(float), frailty)

    def logistic(self, treatment: np.ndarray | float, coefficient: float) -> np.ndarray:
        """P(U = 1), on the logit scale; the linear model is a little wrong about it."""
        push = coefficient * treatment * (1 + 0.3 * self.age)
        return expit(-1 + 0.7 * self.age + 0.5 * self.sex + 0.6 * self.disease + self.frailty + push)

    def linear(self, treatment: np.ndarray | float, theta: float, spread: float) -> np.ndarray:
        """P(U = 1); the linear model is right about it. The effect is theta - spread/2 in men, theta + spread/2 in women."""
        push = treatment * (theta + spread * (self.sex - 0.5))
        return 0.35 + 0.04 * (self.age + self.sex + self.disease + self.frailty) + push

    def designs(self, standard: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Those of the estimation sample, and of the standardisation sample at a0 and a1."""
        covariates = covariate_columns(pd.Series(self.age, name="age"), self.age)
        for name, code in (("sex", self.sex), ("disease", self.disease)):
            covariates[name] = code - code.mean()
        there = {name: column[standard] for name, column in covariates.items()}
        low, high = (design_matrix(np.full(len(standard), v), there, continuous=False) for v in (0.0, 1.0))
        return design_matrix(self.treatment, covariates, continuous=False), low, high


def logistic_coefficients(sample: Sample) -> list[float]:
    """Those whose g-formula effects in ``sample`` are :data:`THETAS`."""

    def effect(coefficient: float) -> float:
        return float((sample.logistic(1.0, coefficient) - sample.logistic(0.0, coefficient)).mean())

    def short(coefficient: float, theta: float) -> float:
        return effect(coefficient) - theta

    return [0.0 if theta == 0 else float(brentq(short, 0, 4, args=(theta,), xtol=1e-6)) for theta in THETAS]


def misspecification(sample: Sample, coefficients: Sequence[float]) -> list[float]:
    """What the linear model makes of the logistic mechanism in an endless sample, less the truth."""
    design, low, high = sample.designs(np.arange(len(sample.age)))
    outcomes = np.column_stack([sample.logistic(sample.treatment, c) for c in coefficients])
    fit = np.linalg.solve(design.T @ design, design.T @ outcomes)
    return [float(x) for x in (high - low).mean(axis=0) @ fit - THETAS]


def unedited(
    n: int, most: int, slope: float, rng: np.random.Generator, coefficients: Sequence[float], *, level: str = "image"
) -> Columns:
    """Estimates from the unedited images of one audit, standardised to a random third of them."""
    patient = draw_patients(n, most, rng)
    sample = Sample.draw(patient, rng, patient_level=level == "patient")
    uniform = rng.uniform(size=len(patient))
    noise = rng.normal(0, 0.05, n)[patient] + rng.normal(0, 0.15, len(patient))
    chances = [sample.logistic(sample.treatment, c) for c in coefficients]
    chances += [sample.linear(sample.treatment, theta, 0.4 * theta) for theta in THETAS]
    chances += [sample.linear(sample.treatment, theta, VARIED) for theta in THETAS]
    scores = slope * (uniform[:, None] < np.column_stack(chances)) + noise[:, None]
    standard = np.sort(rng.permutation(len(patient))[: round(len(patient) * SHOWN)])
    designs = sample.designs(standard)
    effects = g_computation(scores, patient, *designs, patient[standard])
    plain, linear, varied = (effects[i : i + len(THETAS)] for i in range(0, len(effects), len(THETAS)))
    if level == "patient":
        return {"adjusted, treatment of the patient": linear}
    columns: Columns = {"adjusted": plain, "adjusted, linear mechanism": linear, "adjusted, effects vary": varied}
    if most == max(IMAGES):
        columns["adjusted, effects vary, not told whose"] = g_computation(scores[:, -len(THETAS) :], patient, *designs)
    return columns


# --- counting


def analyses(
    simulate: Callable[[int, int, float, np.random.Generator], Columns], n: int, most: int, runs: int, seed: int
) -> Iterator[dict[str, object]]:
    """Rows of the table: by side and question how often p was at most each level."""
    rng = np.random.default_rng([seed, n, most])
    slopes = rng.uniform(0.4, 0.8, size=runs)
    found: dict[tuple[str, str], list[float]] = {}
    for slope, estimate, error in zip(slopes, *judge(slopes, rng), strict=True):
        for side, effects in simulate(n, most, float(slope), rng).items():
            by_theta = {t: e.scaled(float(estimate), float(error)) for t, e in zip(THETAS, effects, strict=True)}
            for question, (theta, p) in QUESTIONS.items():
                found.setdefault((side, question), []).append(p(by_theta[theta]))
    for (side, question), p in found.items():
        rates = {f"{level:g}": rate(int((np.array(p) <= level).sum()), runs) for level in LEVELS}
        yield {"side": side, "question": question, "images": most, "patients": n} | rates


def to_markdown(table: Sequence[Mapping[str, object]], bias: Mapping[float, float], command: str, runs: int) -> str:
    """The calibration table."""

    def cell(found: object, level: float) -> str:
        assert isinstance(found, dict)
        low, high = found["interval"]
        bold = "" if low <= level <= high else "**"
        return f"{bold}{100 * found['rate']:.1f} [{100 * low:.1f}, {100 * high:.1f}]{bold}"

    lines = [
        "# Calibration",
        "",
        INTRODUCTION.format(runs=f"{runs:,}", command=command, delta=DELTA, large=LARGE, judged=JUDGED,
                            bias=", ".join(f"{b:+.4f} at theta = {t:g}" for t, b in bias.items())),
    ]  # fmt: skip
    for question in QUESTIONS:
        lines += [f"## {question}", "", "| side | images a patient | patients | 1 % | 5 % | 10 % |", "|" + "---|" * 6]
        for side in dict.fromkeys(row["side"] for row in table):
            for row in (r for r in table if (r["side"], r["question"]) == (side, question)):
                images = "1" if row["images"] == 1 else f"1 to {row['images']}"
                cells = " | ".join(cell(row[f"{level:g}"], level) for level in LEVELS)
                lines.append(f"| {row['side']} | {images} | {row['patients']} | {cells} |")
        lines.append("")
    return "\n".join(lines)


INTRODUCTION = """\
Each row counts how often, of {runs} simulated analyses, p was at most 1 %, 5 % and 10 %, in per cent, with the
Clopper-Pearson 95 % interval of that share. Where all is well the share is its level; bold are those whose interval
leaves their level out, as chance alone would have it in one of twenty. The command that made it:

    {command}

What was asked:

- *theta = 0 rejected*: the concept does not hang on the attribute, and the two-sided test of theta = 0 says it does;
  0 then lies outside the two-sided interval.
- *interval misses theta*: theta = {large}, and the two-sided interval of level 99 %, 95 %, 90 % leaves it out; coverage
  is 100 % less this.
- *yes at |theta| = delta*, *no at |theta| = delta*: a verdict's tests of |theta| <= delta and |theta| >= delta, at their
  least favourable point, theta = delta = {delta}. Where an interval is wider than 2 delta "no" cannot be said: 0.

Of what (every effect is divided by a slope estimated on {judged:,} images of other patients):

- *editor*: edited less null, an editor whose drift is shared by a patient's images, which flips a rare concept up in
  some patients and down in as many, and which moves more of the images of patients who have many.
- *editor, skewed flips*: flips down in all images of few patients, up in some images of many, at mean 0.
- *adjusted*: unedited images, U follows a logistic model of treatment, age, sex, disease and the patient's frailty;
  theta is the g-formula effect in the population, by 10^6 draws. The standardisation sample is a third of the images.
  The linear model is wrong about this mechanism; in an endless sample it would be off by {bias}.
- *adjusted, linear mechanism*: the same where the linear model is right.
- *adjusted, treatment of the patient*: linear mechanism; all images of a patient have one treatment.
- *adjusted, effects vary*: linear mechanism; the effect is 0.4 larger in women than in men.
- *adjusted, effects vary, not told whose*: the same, but `g_computation` is not told whose images it averages over, so
  that its error is of the effect in those images only, while theta is the population's.
"""


def main() -> None:
    """Simulate, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    parser.add_argument("--markdown", type=Path, help="where the table goes")
    parser.add_argument("--analyses", type=int, default=2_000, help="simulated, for each row")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    started = time.monotonic()
    endless = Sample.draw(np.arange(1_000_000), np.random.default_rng([arguments.seed, 1]))
    coefficients = logistic_coefficients(endless)
    bias = dict(zip(THETAS, misspecification(endless, coefficients), strict=True))
    del endless
    simulations: list[Callable[[int, int, float, np.random.Generator], Columns]] = [
        edited,
        lambda *cell: edited(*cell, skewed=True),
        lambda *cell: unedited(*cell, coefficients),
        lambda *cell: unedited(*cell, coefficients, level="patient"),
    ]
    table: list[dict[str, object]] = []
    for number, simulate in enumerate(simulations):
        for most in IMAGES:
            for n in PATIENTS:
                if number in (1, 3) and most < max(IMAGES):
                    continue  # the hard cases once
                table += analyses(simulate, n, most, arguments.analyses, arguments.seed * 10 + number)
                print(f"{time.monotonic() - started:.0f} s: {table[-1]['side']}, {n} patients", flush=True)

    def headline(side: str, question: str) -> dict[str, object]:
        (row,) = (r for r in table if (r["side"], r["question"]) == (side, question)
                  and {k: r[k] for k in HEADLINE} == HEADLINE)  # fmt: skip
        found = row["0.05"]
        assert isinstance(found, dict)
        if question != "interval misses theta":
            return found
        return rate(found["runs"] - found["count"], found["runs"])

    summary: dict[str, object] = {"analyses": arguments.analyses, "headline": HEADLINE, "delta": DELTA, "drift": DRIFT}
    for side in ("editor", "adjusted"):
        summary[f"coverage_{side}"] = headline(side, "interval misses theta")
        summary[f"rejection_{side}"] = headline(side, "theta = 0 rejected")
    summary["misspecification_bias"] = {f"{theta:g}": round(b, 5) for theta, b in bias.items()}
    summary["seconds"] = round(time.monotonic() - started)
    for key, value in summary.items():
        print(key, value)
    summary["table"] = table
    record(arguments.json, seed=arguments.seed, summary=summary)
    if arguments.markdown:
        command = f"python benchmarks/{Path(sys.argv[0]).name} " + " ".join(sys.argv[1:])
        arguments.markdown.parent.mkdir(parents=True, exist_ok=True)
        arguments.markdown.write_text(to_markdown(table, bias, command, arguments.analyses))


if __name__ == "__main__":
    main()
