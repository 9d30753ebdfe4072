"""The drawing of a chest: closed forms, and every attribute in its place and nowhere else."""

import numpy as np
import pytest
import torch
from torch import Tensor

from causal_cxr.data.phantom import Noise, render
from causal_cxr.data.phantom.renderer import (
    ANATOMY,
    DRAWN,
    PLACEMENT,
    PLACEMENT_COLUMNS,
    _box,
    _chord,
    _segment,
    _tube,
)

SIZE = 64


def values(n: int, **given: float | np.ndarray) -> dict[str, np.ndarray]:
    """A man of 55, PA, healthy, with nothing attached, unless ``given`` says otherwise."""
    plain = dict.fromkeys(DRAWN, 0.0) | {"age": 55.0}
    return {name: np.broadcast_to(value, n) for name, value in (plain | given).items()}


def draw(n: int, seed: int = 0) -> Noise:
    return Noise.draw(n, np.random.default_rng(seed))


def still(n: int = 1, **anatomy: float) -> Noise:
    """Average anatomy but for what is given, objects in the middle of their ranges, speckle of seed 0."""
    z = np.zeros((n, len(ANATOMY)))
    for name, value in anatomy.items():
        z[:, ANATOMY.index(name)] = value
    return Noise(z, np.full((n, len(PLACEMENT_COLUMNS)), 0.5), np.zeros(n, dtype=np.int64))


def placed(noise: Noise, **placement: float) -> Noise:
    columns = noise.placement.copy()
    for name, value in placement.items():
        columns[:, PLACEMENT_COLUMNS.index(name)] = value
    return Noise(noise.anatomy, columns, noise.speckle)


def grid(size: int) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    return axis[None, :].expand(size, size), axis[:, None].expand(size, size)


def any_values(n: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(20, 90, n) if name == "age" else rng.integers(0, 2, n).astype(float) for name in DRAWN}


# What a picture is


@pytest.mark.parametrize("size", [16, 64, 100])
@pytest.mark.parametrize("n", [0, 5])
def test_pictures_are_float32_in_0_to_1_and_of_the_size_asked_for(n, size):
    images = render(any_values(n), draw(n), size)
    assert images.shape == (n, 1, size, size)
    assert images.dtype == torch.float32
    assert ((images >= 0) & (images <= 1)).all()
    assert (images.flatten(1).amax(1) - images.flatten(1).amin(1) > 0.5).all()


def test_the_same_noise_gives_the_same_bits_and_the_global_generators_are_left_alone():
    before = torch.get_rng_state()
    assert torch.equal(render(any_values(4), draw(4)), render(any_values(4), draw(4)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_picture_does_not_depend_on_its_batch():
    given, noise = any_values(12), draw(12)
    batch = render(given, noise)
    for row in (0, 7, 11):
        alone = render({name: v[[row]] for name, v in given.items()}, noise.take(np.array([row])))
        torch.testing.assert_close(alone[0], batch[row], atol=1e-6, rtol=0)


def test_noise_is_taken_in_the_order_asked_for():
    noise = draw(5)
    taken = noise.take(np.array([3, 0, 3]))
    assert len(noise) == 5
    assert len(taken) == 3
    for name in ("anatomy", "placement", "speckle"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(noise, name)[[3, 0, 3]])


def test_speckle_is_detector_noise_of_standard_deviation_0_008():
    noise = still(2)
    one, two = render(values(2), Noise(noise.anatomy, noise.placement, np.array([1, 2])))[:, 0]
    inside = (one > 0.1) & (one < 0.9)  # what is clipped is no longer normal
    assert float((one - two)[inside].std()) == pytest.approx(0.008 * np.sqrt(2), rel=0.1)


def test_anatomy_is_bounded():
    assert torch.equal(
        render(values(1), still(heart_size=9.0, shift_x=-9.0)), render(values(1), still(heart_size=2.5, shift_x=-2.5))
    )


def test_the_sampling_does_not_change_what_is_drawn():
    def clean(size: int) -> Tensor:  # speckle is drawn a pixel: averaged out over 32 draws of one chest
        one, n = draw(1, seed=3), 32
        noise = Noise(one.anatomy.repeat(n, 0), one.placement.repeat(n, 0), np.arange(n))
        everything = dict.fromkeys(DRAWN, 1.0) | {"age": 70.0}
        return render(values(n, **everything), noise, size).mean(0, keepdim=True)

    pooled = torch.nn.functional.avg_pool2d(clean(128), 2)
    error = pooled - clean(64)
    assert abs(float(error.mean())) < 0.001  # neither brighter nor darker
    assert float(error.abs().mean()) < 0.008
    assert float(error.abs().quantile(0.99)) < 0.07  # thin lines: a pixel is sampled at its centre


@pytest.mark.parametrize("name", DRAWN)
def test_a_missing_attribute_is_refused_by_name(name):
    given = values(1)
    del given[name]
    with pytest.raises(ValueError, match=rf"Cannot render without \['{name}'\]"):
        render(given, still())


# Closed forms


def test_a_chord_is_the_length_inside_an_ellipsoid():
    x, y = grid(24)
    z = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    inside = ((x[..., None] - 0.2) / 0.5) ** 2 + ((y[..., None] + 0.1) / 0.8) ** 2 + z**2 <= 1
    length = inside.double().mean(-1) * 2
    torch.testing.assert_close(_chord(x, y, 0.2, -0.1, 0.5, 0.8).double(), length, atol=1e-3, rtol=0)


def test_a_tube_is_the_chord_of_its_circle_over_its_diameter():
    distance = torch.linspace(0, 0.3, 31)
    depth = torch.linspace(-0.2, 0.2, 20_001, dtype=torch.float64)
    share = (distance[:, None] ** 2 + depth**2 <= 0.2**2).double().mean(-1)
    torch.testing.assert_close(_tube(distance, 0.2).double(), share, atol=1e-3, rtol=0)


def test_the_distance_to_a_segment_is_that_to_its_nearest_point():
    x, y = grid(24)
    start, end = torch.tensor([-0.4, 0.3]), torch.tensor([0.5, -0.2])
    along = torch.linspace(0, 1, 4_001)[:, None, None]
    points = [start[i] + along * (end[i] - start[i]) for i in (0, 1)]
    nearest = ((x - points[0]) ** 2 + (y - points[1]) ** 2).sqrt().amin(0)
    torch.testing.assert_close(_segment(x, y, *start, *end), nearest, atol=1e-3, rtol=0)


def test_a_box_is_one_inside_a_half_on_its_edge_and_nothing_outside():
    at = torch.tensor([0.1, 0.3, 0.5])  # centre, edge, as far again
    ink = _box(at, torch.tensor(0.0), torch.tensor(0.1), torch.tensor(0.0), 0.2, 0.4, 0.01)
    torch.testing.assert_close(ink, torch.tensor([1.0, 0.5, 0.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("view", "exposure"), [(0.0, 1.15), (1.0, 1.15 * 1.16)])
def test_beside_the_body_the_picture_is_the_absorption_of_air(view, exposure):
    image = render(values(1, view=view), still())[0, 0]
    x, _ = grid(SIZE)
    assert float(image[x.abs() > 0.95].mean()) == pytest.approx(1 - np.exp(-exposure * 0.02), abs=0.001)


def test_the_heart_is_twelve_hundredths_wider_in_ap():
    """A larger heart changes the picture out to the larger one's border, and not one bit further."""
    size, width = 512, {}
    for view in (0.0, 1.0):
        change = render(values(1, view=view), still(heart_size=2.5), size) != render(
            values(1, view=view), still(heart_size=-2.5), size
        )
        width[view] = int(change[0, 0].any(0).sum()) * 2 / size
    true = 2 * (0.235 + 0.012 * 2.5)
    assert width[0.0] == pytest.approx(true, abs=3 * 2 / size)
    assert width[1.0] == pytest.approx(true * 1.12, abs=3 * 2 / size)


def test_lungs_darken_and_ribs_pale_with_age():
    x, y = grid(SIZE)
    lung = ((x.abs() - 0.42).abs() < 0.2) & (y > -0.5) & (y < 0.1)
    shoulder = (x.abs() > 0.76) & (x.abs() < 0.82) & (y.abs() < 0.5)  # ribs without lung
    young, old = (render(values(1, age=age), still())[0, 0] for age in (25.0, 85.0))
    assert float((old - young)[lung].mean()) < -0.02

    def contrast(image: Tensor) -> float:
        """Variation along y of what is drawn beside the lungs: ribs alone."""
        column = torch.where(shoulder, image, torch.nan).nanmean(1)
        return float(column[~column.isnan()].diff().abs().mean())

    assert contrast(old) < 0.7 * contrast(young)


def test_the_diaphragm_stands_higher_in_ap():
    x, y = grid(SIZE)
    base = ((x + 0.42).abs() < 0.15) & (y > 0.28) & (y < 0.36)  # lung in PA, abdomen in AP
    pa, ap = (render(values(1, view=view), still())[0, 0] for view in (0.0, 1.0))
    assert float((ap - pa)[base].mean()) > 0.15


# In its place, and nowhere else. Boxes are (left, right, top, bottom): where the object can be, and its blur.

PLACES = {
    "cardiomegaly": (-0.45, 0.70, -0.36, 0.72),
    "pacemaker": (0.00, 1.00, -0.90, 0.55),
    "chest_drain": (-1.00, -0.15, -0.70, 0.45),
    "ecg_leads": (-0.95, 0.99, -0.99, 1.00),
    "laterality_marker": (0.40, 1.00, -1.00, -0.40),
    "portable_marker": (-1.00, -0.20, -1.00, -0.55),
    "control_dot": (-1.00, -0.50, 0.55, 1.00),
    "control_bar": (0.40, 1.00, 0.65, 1.00),
    "control_ring": (0.60, 1.00, -0.60, 0.00),
}


def change(name: str, noise: Noise, size: int = SIZE) -> Tensor:
    """``(n, size, size)``: picture with, less picture without."""
    n = len(noise)
    return (render(values(n, **{name: 1.0}), noise, size) - render(values(n), noise, size))[:, 0]


@pytest.mark.parametrize("name", PLACES)
def test_an_attribute_changes_its_place_and_no_bit_elsewhere(name):
    left, right, top, bottom = PLACES[name]
    x, y = grid(SIZE)
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    moved = change(name, draw(40))
    assert (moved[:, ~inside] == 0).all()
    assert (moved[:, inside].amax(1) > 0.1).all()  # each is seen, as something brighter


@pytest.mark.parametrize(("side", "sign"), [(0.2, -1), (0.8, 1)])
def test_an_effusion_whitens_one_base_and_no_bit_of_the_other_lung(side, sign):
    x, y = grid(SIZE)
    moved = change("effusion", placed(draw(40), effusion_side=side))
    assert (moved[:, (sign * x < -0.25) | (y < -0.75)] == 0).all()
    base = ((sign * x - 0.42).abs() < 0.15) & (y > 0.15) & (y < 0.30)
    assert (moved[:, base].mean(1) > 0.1).all()
    assert (moved >= 0).all()


@pytest.mark.parametrize(("name", "one", "other"), [("age", 25.0, 85.0), ("sex", 0.0, 1.0)])
def test_age_and_sex_change_the_body_and_nothing_beside_it(name, one, other):
    x, _ = grid(SIZE)
    moved = (render(values(1, **{name: one}), still()) - render(values(1, **{name: other}), still()))[0, 0]
    assert (moved[x.abs() > 0.95] == 0).all()
    assert float(moved.abs().max()) > 0.05


@pytest.mark.parametrize("name", PLACEMENT)
def test_the_place_of_an_object_shows_exactly_when_the_object_does(name):
    noise = draw(3)
    for column in PLACEMENT[name]:
        here, there = placed(noise, **{column: 0.1}), placed(noise, **{column: 0.9})
        assert torch.equal(render(values(3), here), render(values(3), there)), column
        with_it = values(3, **{name: 1.0})
        assert ((render(with_it, here) != render(with_it, there)).flatten(1).any(1)).all(), column


def test_a_pacemaker_moves_by_as_much_as_its_noise_says():
    x, _ = grid(SIZE)
    centres = []
    for at in (0.0, 1.0):
        moved = change("pacemaker", placed(still(), pacemaker_x=at))[0]
        box = torch.where(moved > 0.35, moved, 0.0)  # the generator; its lead is paler
        centres.append(float((box * x).sum() / box.sum()))
    assert centres[1] - centres[0] == pytest.approx(0.12, abs=0.02)


def test_burnt_in_marks_stay_in_their_corner_when_the_patient_moves():
    def ink(shift: float) -> Tensor:
        noise = still(shift_x=shift, shift_y=shift)
        without = render(values(1), noise)[0, 0]
        return change("control_dot", noise)[0] / (1 - without)

    assert float(ink(0.0).max()) > 0.6
    torch.testing.assert_close(ink(-2.5), ink(2.5), atol=0.05, rtol=0)
    body = [change("pacemaker", still(shift_x=shift))[0] for shift in (-2.5, 2.5)]
    assert float((body[0] - body[1]).abs().max()) > 0.2  # what is attached to the patient moves along
