"""Formulas equal numpy by hand, and nothing but arithmetic can be written."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from causal_cxr.data.phantom.expressions import ARITY, FUNCTIONS, Formula

X = np.array([0.0, 1.0, 1.0, 0.0])
AGE = np.array([20.0, 45.5, 61.0, 90.0])
SITE = np.array([0.0, 2.0, 1.0, 1.0])
GRADE = np.array([0.0, 2.0, 1.0, 2.0])
VALUES = {"x": X, "age": AGE, "view": X, "site": SITE, "grade": GRADE}
LEVELS = {"x": (0, 1), "view": ("PA", "AP"), "site": ("north", "south", "west"), "grade": (1, 2, 3)}

EQUAL = {
    "2 * x - 1": 2 * X - 1,
    "age / 10 ** 2": AGE / 100,
    "-age + 3": 3 - AGE,
    "sigmoid(0.1 * (age - 50))": expit(0.1 * (AGE - 50)),
    "exp(x) + log(age) + sqrt(age)": np.exp(X) + np.log(AGE) + np.sqrt(AGE),
    "abs(age - 50) * tanh(x)": np.abs(AGE - 50) * np.tanh(X),
    "minimum(age, 50) + maximum(age, 50)": AGE + 50,
    "clip(age, 30, 60)": np.clip(AGE, 30, 60),
    "where(age > 50, x, 0.5)": np.where(AGE > 50, X, 0.5),
    "age >= 61": [0, 0, 1, 1],
    "61 <= age": [0, 0, 1, 1],
    "not x": 1 - X,
    "x and age > 50": [0, 0, 1, 0],
    "x or age > 80": [0, 1, 1, 1],
    "view == 'AP'": X,
    "'AP' != view": 1 - X,
    "view": X,
    "view == 1": X,
    "site == 'west'": [0, 1, 0, 0],
    "grade == 2": [0, 0, 1, 0],  # the level 2, which is not the code 2
    "grade >= 2": [0, 1, 1, 1],
    "(x == 1) + (age > 50) + (site == 'south')": [0, 1, 3, 2],  # counts: comparisons are numbers
    "(x == 1) - (age > 50)": [0, 1, 0, -1],
    "-(x == 1)": -X,
}


@pytest.mark.parametrize("text", EQUAL)
def test_formulas_equal_numpy(text):
    assert Formula(text)(VALUES, LEVELS) == pytest.approx(np.asarray(EQUAL[text], dtype=float))


def test_a_formula_knows_its_variables_and_not_its_functions():
    assert Formula("where(view == 'AP', exp(age), x) + 1").names == {"view", "age", "x"}
    assert Formula("3").names == frozenset()


REFUSED = {
    "age.real": "age.real",
    "age.__class__": "allowed are numbers",
    "__import__('os')": "__import__",
    "open('file')": "open",
    "eval('1')": "eval",
    "lambda: 1": "lambda",
    "age[0]": "age",
    "[age for age in x]": "for",
    "[1, 2]": "1, 2",
    "(1, 2)": "1, 2",
    "{'a': 1}": "'a': 1",
    "f'{age}'": "age",
    "clip(age, 0, a_max=1)": "a_max",
    "exp(*x)": "x",
    "exp(x, x)": "exp takes 1 argument",
    "where(x)": "where takes 3 argument",
    "clip()": "clip takes 3 argument",
    "1 if x else 2": "if",
    "(y := 3)": "y := 3",
    "0 < x < 1": "one comparison at a time",
    "x in (0, 1)": "in",
    "x is 1": "is",
    "x // 2": "//",
    "x % 2": "%",
    "x @ x": "@",
    "x << 2": "<<",
    "~x": "~x",
    "True": "True",
    "None": "None",
    "1j": "1j",
    "b'x'": "b'x'",
    "1e13": "10000000000000",
    "1e999": "allowed are numbers",
    "await x": "cannot be read|allowed are",
    "x = 1": "cannot be read",
    "import os": "cannot be read",
    "": "cannot be read",
    "x +": "cannot be read",
    "x\0": "cannot be read",
    "+".join("1" * 400): "more than 200 operators",
    "-" * 990 + "x": "more than 200 operators|nested too deeply|cannot be read",
    "(" * 499 + "x" + ")" * 499: "cannot be read|more than",
    "x" * 2_000: "2000 characters; 1000 are allowed",
    "9" * 500: "allowed are numbers",
}


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:25].replace("\0", "NUL"))
def test_all_else_is_refused(text):
    with pytest.raises(ValueError, match=REFUSED[text].replace("|", "|") if "|" in REFUSED[text] else None) as told:
        Formula(text)
    assert "|" in REFUSED[text] or REFUSED[text] in str(told.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("site == 'east'", r"compares site with 'east'; its levels: \['north', 'south', 'west'\]"),
        ("grade == 0", r"compares grade with 0; its levels: \[1, 2, 3\]"),
        ("site == 1", "compares site with 1; its levels"),
        ("site + 1", "uses 'site' as a number; compare it with one of its levels"),
        ("exp(grade)", "uses 'grade' as a number"),
        ("age == 'old'", "uses the text 'old' as a number; compare an attribute with it"),
        ("exp(x) == 'AP'", "uses the text 'AP' as a number"),
        ("'AP'", "uses the text 'AP' as a number"),
    ],
)
def test_what_only_the_levels_can_tell_is_refused_when_evaluated(text, message):
    with pytest.raises(ValueError, match=message):
        Formula(text)(VALUES, LEVELS)


def test_a_tower_of_powers_is_a_number_and_no_work():
    assert np.isinf(Formula("9 ** 9 ** 9 ** 9")({}, {}))


def test_every_function_has_its_number_of_arguments():
    assert set(ARITY) == set(FUNCTIONS)
    for name, count in ARITY.items():
        assert Formula(f"{name}({', '.join(['0.5'] * count)})")({}, {}).shape == ()


NUMBERS = st.floats(0.01, 9, allow_subnormal=False).map(lambda x: str(round(x, 3)))
TREES = st.recursive(
    NUMBERS | st.sampled_from(["x", "age"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "<", ">=", "=="]), inner).map(lambda t: f"({' '.join(t)})"),
        inner.map(lambda t: f"(-{t})"),
        inner.map(lambda t: f"abs({t})"),
        st.tuples(inner, inner).map(lambda t: f"minimum({t[0]}, {t[1]})"),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(TREES, st.floats(0, 1), st.floats(20, 90))
def test_random_arithmetic_equals_python(text, x, age):
    wanted = float(eval(text, {"x": x, "age": age, "abs": abs, "minimum": min}))
    if len(text) <= 1_000:
        assert Formula(text)({"x": np.array([x]), "age": np.array([age])}, {})[()] == pytest.approx(wanted)
