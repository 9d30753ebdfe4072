"""Worlds drawn at random: as asked for, sound, and varied."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causal_cxr.data.phantom.random_worlds import ACQUISITION, DEMOGRAPHIC, DISEASE, HIDDEN
from causal_cxr.data.phantom.world import World

TIER = {name: i for i, tier in enumerate((DEMOGRAPHIC, DISEASE, ACQUISITION)) for name in tier}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), labelled=st.integers(2, 10), hidden=st.integers(1, 19), density=st.floats(0, 1),
    confounding=st.floats(0, 0.5), reverse=st.floats(0, 0.5),
)  # fmt: skip
def test_every_random_world_has_the_attributes_asked_for_and_its_causes_in_order(
    seed, labelled, hidden, density, confounding, reverse
):
    world = World.random(
        seed, labelled=labelled, hidden=hidden, density=density, confounding=confounding, reverse=reverse
    )
    assert (len(world.graph.labelled), len(world.graph.hidden)) == (labelled, hidden)
    assert len(world.hidden_signs) == hidden
    for cause, effect in world.graph.edges:
        assert not {"age", "sex", "weekday"} & {effect}
        if cause in TIER and effect in TIER:
            assert TIER[cause] <= TIER[effect]


def test_the_same_seed_gives_the_same_world_and_others_give_others():
    prints = [World.random(seed).fingerprint for seed in (0, 1, 2, 0)]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3


def test_random_worlds_call_things_what_the_named_worlds_call_them():
    """Else an editor that was fitted to named worlds would be asked in words that it never read."""
    named = {}
    for name in World.names():
        named |= World.load(name).graph.attributes
    random = World.random(0, labelled=10, hidden=19).graph
    assert set(random.labelled) <= named.keys()
    for name in random.attributes.keys() & named.keys():
        assert not named[name].phrases or random.attributes[name].phrases == named[name].phrases, name


def test_a_random_world_can_be_written_down_and_read_again():
    world = World.random(5, confounding=0.5)
    assert World.from_dict(world.to_dict()).fingerprint == world.fingerprint


def test_nothing_is_so_rare_that_no_audit_could_see_it():
    shares = []
    for seed in range(20):
        _, codes, _ = World.random(seed).population(4_000, 0, iid=True)
        shares += [code.mean() for name, code in codes.items() if name != "age"]
    assert min(shares) > 0.05
    assert max(shares) < 0.95
    assert np.mean([0.2 < share < 0.8 for share in shares]) > 0.9


def test_density_strength_confounding_and_reverse_do_what_they_say():
    def count(**options):
        worlds = [World.random(seed, **options) for seed in range(15)]
        hidden = set(HIDDEN)
        return {
            "arrows": sum(len(w.graph.edges) for w in worlds),
            "confounded": sum(len(w.graph.confounded) for w in worlds),
            "reverse": sum(a in hidden for w in worlds for a, _ in w.graph.edges),
        }

    plain = count(density=0.2, confounding=0, reverse=0)
    assert (plain["confounded"], plain["reverse"]) == (0, 0)
    assert count(density=0.6, confounding=0, reverse=0)["arrows"] > 2 * plain["arrows"]
    assert count(density=0.2, confounding=1, reverse=0)["confounded"] > 15
    assert count(density=0.2, confounding=0, reverse=1)["reverse"] > 15
    weights = [
        abs(w)
        for m in World.random(3, strength=4.0).mechanisms.values()
        if m.logistic
        for w in m.logistic.weights.values()
    ]
    assert all(1.6 <= w <= 4.8 for w in weights)


@pytest.mark.parametrize("options", [{"labelled": 1}, {"labelled": 11}, {"hidden": 0}, {"hidden": 20}])
def test_more_or_fewer_attributes_than_there_are_is_refused(options):
    with pytest.raises(ValueError, match="2 to 10 labelled and 1 to 19 hidden"):
        World.random(0, **options)
