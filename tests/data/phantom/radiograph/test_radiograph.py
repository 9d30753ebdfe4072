"""The picture of a chest: its measures, and everything that can be drawn in its place and nowhere else."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from causal_cxr.data.phantom.radiograph import (
    ANATOMY,
    DRAWABLES,
    NUMBERS,
    PLACEMENT,
    PLACEMENT_COLUMNS,
    Noise,
    expected,
    render,
)
from causal_cxr.data.phantom.radiograph.scene import magnification

THINGS = [name for name, drawable in DRAWABLES.items() if drawable.thing]
AMOUNT = {"effusion_ml": 700.0, "consolidation": 0.8, "pneumothorax": 0.4, "oedema": 0.8, "nodule_mm": 30.0}


def draw(n: int, seed: int = 0) -> Noise:
    return Noise.draw(n, np.random.default_rng(seed))


def still(n: int = 1, **anatomy: float | np.ndarray) -> Noise:
    """Average anatomy but for what is given, things in the middle of their ranges, speckle of seed 0."""
    z = np.zeros((n, len(ANATOMY)))
    for name, value in anatomy.items():
        z[:, ANATOMY.index(name)] = value
    middle = np.full((n, len(PLACEMENT_COLUMNS)), 0.5)
    return Noise(z, middle, np.zeros((n, len(NUMBERS))), np.zeros(n, dtype=np.int64))


def placed(noise: Noise, **placement: float) -> Noise:
    columns = noise.placement.copy()
    for name, value in placement.items():
        columns[:, PLACEMENT_COLUMNS.index(name)] = value
    return Noise(noise.anatomy, columns, noise.amounts, noise.speckle)


def values(n: int, **given: float | np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(value, n) for name, value in given.items()}


def any_values(n: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Independent values, each thing there in a third of the images."""
    rng = np.random.default_rng(seed)
    out = {}
    for d in DRAWABLES.values():
        value = rng.integers(0, len(d.levels), n) if d.kind == "level" else rng.uniform(d.low, d.high, n)
        out[d.name] = np.where(rng.uniform(size=n) < 0.33, value, 0) if d.thing else value
    return out


def there(name: str, n: int = 1) -> dict[str, np.ndarray]:
    return values(n, **{name: AMOUNT.get(name, 1.0)})


def inside(name: str, size: int = 64) -> Tensor:
    top, left, bottom, right = (round(edge * size) for edge in DRAWABLES[name].region or (0, 0, 1, 1))
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


# What a picture is


@pytest.mark.parametrize("size", [32, 64, 100])
@pytest.mark.parametrize("n", [0, 5])
def test_pictures_are_float32_in_0_to_1_and_of_the_size_asked_for(n, size):
    images = render(any_values(n), draw(n), size)
    assert images.shape == (n, 1, size, size)
    assert images.dtype == torch.float32
    assert ((images >= 0) & (images <= 1)).all()
    assert (images.flatten(1).amax(1) - images.flatten(1).amin(1) > 0.3).all()


def test_the_same_noise_gives_the_same_bits_and_the_global_generator_and_threads_are_left_alone():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert torch.equal(render(any_values(4), draw(4)), render(any_values(4), draw(4)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_picture_does_not_depend_on_its_batch():
    given, noise = any_values(80), draw(80)  # more than are drawn at once
    batch = render(given, noise)
    for row in (0, 63, 64, 79):
        alone = render({name: v[[row]] for name, v in given.items()}, noise.take(np.array([row])))
        torch.testing.assert_close(alone[0], batch[row], atol=2e-6, rtol=0)


def test_what_is_not_named_is_drawn_at_its_default():
    named = values(3, **{name: drawable.default for name, drawable in DRAWABLES.items()})
    assert torch.equal(render({}, draw(3)), render(named, draw(3)))


def test_noise_is_taken_in_the_order_asked_for():
    noise = draw(5)
    taken = noise.take(np.array([3, 0, 3]))
    assert (len(noise), len(taken)) == (5, 3)
    for name in ("anatomy", "placement", "amounts", "speckle"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(noise, name)[[3, 0, 3]])


def test_anatomy_is_bounded_and_amounts_are_the_worlds_business():
    far, near = still(shift_x=9.0, dome_left=-9.0), still(shift_x=2.5, dome_left=-2.5)
    assert torch.equal(render({}, far), render({}, near))
    other = Noise(near.anatomy, near.placement, near.amounts + 1, near.speckle)
    assert torch.equal(render({}, other), render({}, near))


@pytest.mark.parametrize("name", ANATOMY)
def test_all_anatomy_noise_shows(name):
    woman = values(1, sex=1)  # breasts have noise of their own
    change = expected(woman, still(**{name: 1.0})) - expected(woman, still(**{name: -1.0}))
    assert float(change.abs().max()) > 0.005


# Detector


def test_quantum_noise_has_the_poisson_variance_of_the_local_count():
    """Four times the exposure halves it; beside the body it is least, behind the spine most."""
    n = 200
    noise = Noise(still(n).anatomy, still(n).placement, still(n).amounts, np.arange(n))

    def spread(exposure: float) -> Tensor:
        return render(values(n, exposure=exposure), noise, 32)[:, 0].std(0)

    low, high = spread(0.0), spread(2.0)
    lung = (slice(14, 18), slice(7, 10))
    assert float(low[lung].mean() / high[lung].mean()) == pytest.approx(2.0, rel=0.25)
    assert 0.003 < float(low[4:28, 8:24].mean()) < 0.015
    assert float(low[2:30, :1].mean()) < 0.5 * float(low[16:28, 15:17].mean())


def test_noise_is_kept_in_a_counterfactual():
    noise = draw(4)
    plain, changed = render({}, noise), render(there("control_dot", 4), noise)
    elsewhere = ~inside("control_dot")
    assert torch.equal(plain[..., elsewhere], changed[..., elsewhere])


def test_the_sampling_does_not_change_the_scene():
    given, noise = any_values(40, seed=3), draw(40, seed=3)
    fine = torch.nn.functional.avg_pool2d(expected(given, noise, 256), 4)
    error = fine - expected(given, noise, 64)
    assert abs(float(error.mean())) < 0.002
    assert float(error.abs().mean()) < 0.008
    assert float(error.abs().flatten().quantile(0.99)) < 0.08  # the edges of thin wires


# Measures


def extents(view: int, ratio: float, size: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Distances in pixels from the midline to the heart's and the inner thorax's border, on both sides, from pixels.

    Ribs would hide the borders: twelve chests that differ in their ribs' phase alone are averaged. In each row between
    the hila and the domes the heart ends at the steepest fall in brightness before the darkest lung, and the lung at
    the steepest rise near the flank. The widest of all rows counts, as on a film.
    """
    noise = still(12, rib_phase=np.linspace(-1.25, 1.25, 12))
    picture = expected(values(12, cardiothoracic_ratio=ratio, view=view), noise, size)[:, 0].mean(0).numpy()
    rows, half = picture[int(0.50 * size) : int(0.66 * size)], size // 2
    heart, thorax = [], []
    for side in (rows[:, half:], rows[:, :half][:, ::-1]):
        slope = np.diff(side, axis=1)
        darkest = side[:, : int(0.65 * half)].argmin(1)
        heart.append(max(row[:end].argmin() + 1 for row, end in zip(slope, darkest, strict=True)))
        near = slice(int(0.60 * half), int(0.80 * half))
        thorax.append(near.start + slope[:, near].argmax(1).max() + 1)
    return np.array(heart), np.array(thorax)


@pytest.mark.parametrize("ratio", [0.40, 0.45, 0.50, 0.55, 0.60, 0.65])
def test_the_cardiothoracic_ratio_measured_on_a_pa_film_is_the_attribute(ratio):
    heart, thorax = extents(view=0, ratio=ratio)
    assert heart.sum() / thorax.sum() == pytest.approx(ratio, rel=0.02)


def test_ap_magnifies_the_heart_by_the_ratio_of_the_distances_to_the_source():
    true = (102 / (102 - 3 - (21 - 7))) / (
        183 / (183 - 1.5 - 7)
    )  # D / (D - h), of a heart 7 cm behind the chest's front
    pa, ap = magnification(torch.tensor([0.0, 1.0]), depth=7.0)
    assert float(ap / pa) == pytest.approx(true, abs=1e-5)
    measured = extents(view=1, ratio=0.45)[0].sum() / extents(view=0, ratio=0.45)[0].sum()
    assert measured == pytest.approx(true, rel=0.02)


def test_the_diaphragm_stands_higher_in_ap():
    base = (slice(40, 43), slice(14, 24))  # right lung in PA, liver in AP
    pa, ap = (expected(values(1, view=view), still())[0, 0][base].mean() for view in (0, 1))
    assert float(ap - pa) > 0.05


def test_ribs_pale_and_the_aorta_unfolds_with_age():
    def ribs(age: float) -> float:
        return float(expected(values(1, age=age), still(), 256)[0, 0, 70:150, 60].diff().abs().mean())

    assert ribs(85) < 0.7 * ribs(25)
    beside_the_knob = (slice(20, 25), slice(37, 39))
    young, old = (expected(values(1, age=age), still())[0, 0][beside_the_knob].mean() for age in (25, 85))
    assert float(old - young) > 0.03


def test_contrast_falls_with_bmi():
    images = expected(values(2, bmi=np.array([18.0, 40.0])), still(2))[:, 0]
    contrast = images[:, 56:60, 28:36].mean((1, 2)) - images[:, 24:34, 14:22].mean((1, 2))
    assert float(contrast[1]) < 0.9 * float(contrast[0])


def test_more_fluid_stands_higher():
    amounts = np.array([0.0, 200.0, 700.0, 1500.0, 2500.0])
    given = values(5, effusion_side=1) | {"effusion_ml": amounts}
    whiter = (expected(given, still(5)) - expected(values(5), still(5)))[:, 0, :, :32]
    assert (whiter >= -1e-6).all()
    area = (whiter > 0.05).sum((1, 2))
    assert (area.diff() > 0).all()


# In its place, and nowhere else


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_changes_its_region_and_no_bit_elsewhere(name):
    n, mask = 24, inside(name)
    noise = draw(n)
    change = (expected(there(name, n), noise) - expected({}, noise))[:, 0]
    assert (change[:, ~mask] == 0).all()
    assert (change[:, mask].abs().amax(1) > 0.05).all()  # each is seen


@pytest.mark.parametrize("name", THINGS)
def test_the_placement_of_a_thing_shows_exactly_when_the_thing_does(name):
    noise = draw(1)
    for column in PLACEMENT[name]:
        here, elsewhere = placed(noise, **{column: 0.1}), placed(noise, **{column: 0.9})
        assert torch.equal(render({}, here), render({}, elsewhere)), column
        assert not torch.equal(render(there(name), here), render(there(name), elsewhere)), column


@pytest.mark.parametrize(
    "name", [name for name in DRAWABLES if name not in THINGS and not name.endswith(("_side", "_lobe"))]
)
def test_a_property_shows(name):
    d = DRAWABLES[name]
    ends = (0, 1) if d.kind == "level" else (d.low, d.high)
    one, other = (expected(values(1, **{name: end}), still()) for end in ends)
    assert float((one - other).abs().max()) > 0.05


@pytest.mark.parametrize(("side", "finding"), [("effusion_side", "effusion_ml"), ("pneumothorax_side", "pneumothorax")])
@pytest.mark.parametrize(("code", "right"), [(1, True), (2, False)])
def test_a_finding_is_on_the_side_asked_for_and_the_patients_left_is_on_the_right(side, finding, code, right):
    assert torch.equal(render(values(1, **{side: code}), still()), render({}, still()))  # nothing there to be placed
    change = (expected(there(finding) | values(1, **{side: code}), still()) - expected({}, still()))[0, 0].abs()
    left_half, right_half = change[:, :31].sum(), change[:, 33:].sum()
    assert float(right_half if right else left_half) < 1e-4 < float(left_half if right else right_half)


def test_a_consolidation_is_in_the_lobe_asked_for():
    centres = []
    for lobe in range(1, 6):
        change = (
            expected(there("consolidation") | values(1, consolidation_lobe=lobe), still()) - expected({}, still())
        )[0, 0]
        at = torch.arange(64.0) - 31.5
        centres.append(
            (float((change.sum(0) * at).sum() / change.sum()), float((change.sum(1) * at).sum() / change.sum()))
        )
    upper_right, middle, lower_right, upper_left, lower_left = centres
    assert upper_right[0] < 0 and middle[0] < 0 and lower_right[0] < 0 < upper_left[0] < 40 and lower_left[0] > 0  # noqa: PT018
    assert upper_right[1] < middle[1] < lower_right[1]
    assert upper_left[1] < lower_left[1]


def test_burnt_in_marks_stay_when_the_patient_moves_and_devices_go_along():
    def picture(shift: float, **given: float) -> Tensor:
        return expected(values(1, **given), still(shift_x=shift))[0, 0]

    ink = [(picture(shift, control_dot=1) - 0.9).abs() < 1e-6 for shift in (-2.5, 2.5)]
    assert ink[0].sum() > 4
    assert torch.equal(*ink)
    device = [picture(shift, pacemaker=1) - picture(shift) for shift in (-2.5, 2.5)]
    assert float((device[0] - device[1]).abs().max()) > 0.1


# What cannot be drawn


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"Cannot draw \['halo'\]; what can be drawn: age, bmi"):
        render(values(1, halo=1), still())


@pytest.mark.parametrize(
    ("name", "value"),
    [("age", -1), ("age", 101), ("age", np.nan), ("bmi", 10), ("effusion_ml", 2501), ("sex", 2), ("sex", 0.5),
     ("pacemaker", np.nan), ("laterality_marker", 3)],
)  # fmt: skip
def test_a_value_that_cannot_be_drawn_is_refused_by_name_and_row(name, value):
    with pytest.raises(ValueError, match=rf"^{name} = {value}.* in row 1 cannot be drawn; it must be"):
        render({name: np.array([DRAWABLES[name].default, value])}, still(2))


def test_an_array_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"age has shape \(3,\), the noise is that of 2 phantoms"):
        render({"age": np.full(3, 50.0)}, still(2))


@pytest.mark.parametrize("size", [0, 15, 2000])
def test_a_size_that_cannot_be_drawn_is_refused(size):
    with pytest.raises(ValueError, match=f"size = {size} cannot be drawn"):
        render({}, still(), size)


# The table


def test_the_table_is_consistent():
    assert len(set(PLACEMENT_COLUMNS)) == len(PLACEMENT_COLUMNS)
    assert len(set(ANATOMY)) == len(ANATOMY)
    for name, d in DRAWABLES.items():
        assert d.name == name
        assert d.description
        assert d.low <= d.default <= d.high
        assert (len(d.levels) >= 2) == (d.kind == "level")
        assert bool(d.placement) == d.thing == (d.region is not None)
        assert (name in NUMBERS) == (d.kind == "number")


@pytest.mark.parametrize(("n", "size"), [(2_000, 32), (20, 512)])
def test_working_memory_does_not_grow_with_the_batch(n, size, monkeypatch):
    """However many are asked for, so many picture elements are in the works at once; only the result grows."""
    drawn, render_module = [], sys.modules[render.__module__]
    monkeypatch.setattr(render_module, "_draw", lambda values, noise, size, speckled, out: drawn.append(out.numel()))
    render({}, Noise.draw(n, np.random.default_rng(0)), size)
    assert sum(drawn) == n * size**2
    assert max(drawn) <= max(render_module._CHUNK, size**2)
