"""The overhead benchmark: what is inside a clock is not counted outside it, and costs are split as they were made."""

import audit_overhead as benchmark
import pytest
from audits.fakes import GRAPH, CornerDataset, CornerEditor, CornerReader

from causal_cxr.audits import Audit


class Hand:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time

    def spend(self, seconds: float) -> None:
        self.time += seconds


def test_time_inside_is_not_counted_outside():
    hand = Hand()
    clock = benchmark.Clock(hand)
    edit = clock.timed("editor", lambda: hand.spend(5))
    with clock.on("audit"):
        hand.spend(1)
        with clock.on("measure"):
            hand.spend(2)
            edit()
            edit()
        hand.spend(1)
    assert clock.seconds == {"editor": 10, "measure": 2, "audit": 2}
    assert benchmark.overhead(clock.seconds) == (4, 14)


def test_a_clock_that_an_error_stops_goes_right_afterwards():
    hand = Hand()
    clock = benchmark.Clock(hand)

    def fail() -> None:
        hand.spend(3)
        raise ValueError

    with clock.on("audit"):
        with pytest.raises(ValueError), clock.on("editor"):  # noqa: PT011 - the clock is what is tested
            fail()
        hand.spend(1)
    assert clock.seconds == {"editor": 3, "audit": 1}


def test_costs_are_split_into_those_of_an_audit_and_those_of_an_image():
    def spent(edited: int) -> dict[str, float]:
        return {"editor": 2.0 * edited, "measure": 3.0 + 0.1 * edited, "report": 1.0}

    found = benchmark.summarise(spent(32), spent(64), (32, 64), 7.0)
    assert found["overhead_fraction"] == pytest.approx(10.4 / 138.4, abs=1e-4)
    assert (found["fixed_s"], found["per_image_s"], found["per_image_total_s"]) == (4.0, 0.1, 2.1)
    assert found["overhead_fraction_at_demo_size"] == pytest.approx((4 + 40) / (4 + 840), abs=1e-4)
    assert found["first_use_s"] == 7.0


class Costly(CornerEditor):
    def __init__(self, hand: Hand) -> None:
        super().__init__()
        self.hand = hand

    def abduct(self, images, attributes, *, seeds):
        self.hand.spend(1)
        return super().abduct(images, attributes, seeds=seeds)

    def edit(self, abduction, target, *, phrasing=0, strength=1.0):
        self.hand.spend(10)
        return super().edit(abduction, target, phrasing=phrasing, strength=strength)


def test_a_real_audit_is_timed_phase_by_phase_and_nothing_escapes():
    hand = Hand()
    clock = benchmark.Clock(hand)
    dataset, reader = CornerDataset(200), CornerReader()
    clocked = benchmark.Clocked(reader, ("read",), "readers", clock)
    audit = Audit(GRAPH, [clocked], n_edited=40)
    seconds = benchmark.timed_audit(Costly(hand), dataset, audit, clock, seed=0)
    assert {"editor", "readers", "images", "plan", "measure", "analyse", "report", "other"} <= set(seconds)
    assert sum(seconds.values()) == seconds["editor"] == hand.time  # whatever an editor costs is the editor's
    assert benchmark.overhead(seconds)[0] == 0
    assert clocked.fingerprint == reader.fingerprint  # all else is the reader's own


def test_the_editor_that_costs_nothing_gives_the_images_back():
    dataset = CornerDataset(8)
    images = dataset.images(range(8))
    editor = benchmark.Noop(frozenset({"view"}))
    edit = editor.edit(editor.abduct(images, dataset.attributes, seeds=range(8)), dataset.attributes)
    assert edit.images is images
    assert edit.accepted.all()
