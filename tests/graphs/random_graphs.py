"""Random causal graphs for hypothesis."""

from hypothesis import strategies as st

from causal_cxr.graphs import Binary, Categorical, CausalGraph, Continuous

NAMES = "abcdef"
ODD_NAMES = (
    "age & sex",
    "<b>bold</b>",
    'a "quoted" word',
    "back\\slash\\",
    "U(a, b)",
    "größe",
    "image node",
    "n0",
    "&#92;",
)


@st.composite
def graphs(draw, *, names=NAMES, hidden=False, confounded=True, selected=False, tiers=False, most=6):
    """A graph over some of ``names``, in a random causal order that differs from the order of declaration."""
    used = draw(st.permutations(names))[: draw(st.integers(2, min(most, len(names))))]
    order = draw(st.permutations(used))
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    edges = [pair for pair in pairs if draw(st.booleans())]
    latent = [pair for pair in pairs if confounded and draw(st.integers(0, 3)) == 0]
    conceal = {name for name in used if hidden and draw(st.integers(0, 3)) == 0}
    shows = [(name, "image") for name in used if draw(st.booleans())]
    selected_on = [name for name in used if selected and draw(st.integers(0, 2)) == 0]
    cut = draw(st.integers(0, len(order)))
    return CausalGraph(
        [Binary(name, hidden=name in conceal) for name in used],
        [*edges, *shows],
        confounded=latent,
        selected_on=selected_on,
        tiers=[order[:cut], order[cut:]] if tiers else None,
    )


def rich_graph() -> CausalGraph:
    """One of everything, with names and phrases that need escaping."""
    age = Continuous(
        "age & sex", unit="years", low=18, high=100.5, phrases=("{value:.0f}-year-old", "aged {value:.0f}")
    )
    view = Binary('a "quoted" word', levels=("PA", "AP"), phrases={"PA": 'the "PA" \\ view', "AP": ("AP\nview", "<i>")})
    race = Categorical("<b>bold</b>", levels=("white", 2, 0.5), reference=2, phrases={2: "two"})
    pacemaker = Binary("back\\slash\\", hidden=True)
    lone = Binary("größe &amp; &#92;")
    stage = Categorical("stage", levels=("none", "mild", "severe"), ordered=True)
    return CausalGraph(
        [age, view, race, pacemaker, lone, stage],
        [(age.name, view.name), (age.name, pacemaker.name), (view.name, "image"), (pacemaker.name, "image")],
        confounded=[(race.name, view.name), (age.name, view.name)],
        selected_on=[view.name],
        tiers=[[age.name, race.name], [view.name]],
    )
