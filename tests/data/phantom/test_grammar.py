"""Reports by grammar: of any world, often silent, never wrong."""

import re
from itertools import chain, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causal_cxr.data.phantom import World
from causal_cxr.data.phantom.grammar import DEFAULT_MENTION, Grammar, Mention, load_grammar, placeholders
from causal_cxr.graphs import Binary, Categorical, Continuous
from causal_cxr.readers import load_concepts

N = 3000
_PORTABLE = World.load("portable").graph.attributes
LABELLED = tuple(a for a in _PORTABLE.values() if not a.hidden)
HIDDEN = tuple(a for a in _PORTABLE.values() if a.hidden)
AGE, SEX, VIEW = (next(a for a in LABELLED if a.name == name) for name in ("age", "sex", "view"))
MARKER = Categorical("laterality_marker", levels=("absent", "lead letter", "circled stamp"), hidden=True)
BMI = Continuous("bmi", unit="kg/m2", low=15, high=50)
WORLD = (
    *LABELLED,
    *(a for a in HIDDEN if a.name != "laterality_marker"),
    MARKER,
    BMI,
    Binary("icd", hidden=True),
    Categorical("exposure_style", levels=("standard", "hard", "soft")),
    Binary("heart_tattoo", hidden=True),
    Categorical("mood", levels=("glad", "sad"), phrases={"glad": ("in good spirits", "smiling")}),
)
MENTIONS = {
    "pacemaker": Mention(0.6, 0.1),
    "effusion": Mention(1.0, 0.0),
    "icd": Mention(0.0, 1.0),
    "sex": Mention(0.7),
    "laterality_marker": Mention(0.8, 0.5),
}
#: Attributes of which nothing is said in a sentence of its own.
OPENING = ("view", "sex", "age")


def sample(attributes, n, rng, share_missing=0.0):
    """A typed table with independent columns."""
    columns = {}
    for a in attributes:
        raw = rng.uniform(a.low, a.high, n) if isinstance(a, Continuous) else rng.integers(0, len(a.levels), n) * 1.0
        columns[a.name] = a.decode(np.where(rng.uniform(size=n) < share_missing, np.nan, raw))
    return pd.DataFrame(columns)


def read(grammar, texts):
    """One row for each thing said: row of the table, place in the report, sentence, attribute, claim."""
    meaning = grammar.sentences()
    rows = [
        (i, j, sentence, name, claim)
        for i, text in enumerate(texts)
        for j, sentence in enumerate(text.split(" . "))
        for name, claim in (meaning[sentence].items() or [(None, None)])
    ]
    return pd.DataFrame(rows, columns=["row", "place", "sentence", "attribute", "claim"])


def is_true(value, claim):
    return value in claim if isinstance(claim, pd.Interval) else value == claim


def assert_never_wrong(said, table):
    for row, name, claim in said.loc[said["attribute"].notna(), ["row", "attribute", "claim"]].itertuples(index=False):
        value = table[name].iloc[row]
        assert pd.notna(value), f"{name} is unknown"
        assert is_true(value, claim), f"{name} is {value}, the report says {claim}"
    assert not said.duplicated(["row", "attribute"]).any()


def write(attributes, *columns, seed=0, **kwargs):
    """The texts for one row a value, everything being mentioned unless ``kwargs`` says otherwise."""
    table = pd.DataFrame({a.name: list(values) for a, values in zip(attributes, columns, strict=True)})
    return list(Grammar(attributes, **{"default": Mention(1, 1), **kwargs}).write(table, np.random.default_rng(seed)))


@pytest.fixture(scope="module")
def grammar():
    return Grammar(WORLD, MENTIONS)


@pytest.fixture(scope="module")
def table():
    return sample(WORLD, N, np.random.default_rng(5), share_missing=0.1)


@pytest.fixture(scope="module")
def texts(grammar, table):
    return grammar.write(table, np.random.default_rng(0))


@pytest.fixture(scope="module")
def said(grammar, texts):
    return read(grammar, texts)


# What is said is true


def test_no_sentence_claims_what_is_not_so_and_nothing_is_said_of_missing_values(said, table):
    assert_never_wrong(said, table)


def test_everything_that_can_be_said_is_said_somewhere(table):
    grammar = Grammar(WORLD, default=Mention(1, 1))
    numbers = {s for s, claims in grammar.sentences().items() if "bmi" in claims}  # its ends are rare
    said = read(grammar, grammar.write(table, np.random.default_rng(0)))
    assert set(grammar.sentences()) - numbers - {"radiograph of the chest", "chest film"} <= set(said["sentence"])


def test_a_negation_denies_only_its_own_thing():
    """A patient with a defibrillator and no pacemaker: nothing said may be false of the defibrillator."""
    texts = write((Binary("pacemaker"), Binary("icd")), [0] * 200, [1] * 200)
    for sentence in {s for text in texts for s in text.split(" . ")}:
        assert not (sentence.startswith(("no ", "there is no ")) and "pacemaker" not in sentence), sentence


def test_numbers_are_named_rounded():
    texts = write((BMI,), [27.4, 27.6, 49.9])
    assert [re.findall(r"\d+", text) for text in texts] == [["27"], ["28"], ["50"]]


def test_rounding_stays_within_the_range_of_the_attribute():
    dose = Continuous("dose", unit="mGy", low=0.123, high=0.457, phrases="{value:.3f} mGy")
    texts = write((dose,), [0.123, 0.2004, 0.457], mentions={})
    assert [text.split(" . ")[1] for text in texts] == ["0.123 mGy", "0.200 mGy", "0.457 mGy"]


# How often


def stated_rate(attribute, value):
    """Written down independently of the module."""
    mention = MENTIONS.get(attribute.name, Mention(1, 1) if attribute.name in OPENING else DEFAULT_MENTION)
    return mention.absent if value == 0 or value == "absent" else mention.present


LEVELS = [(a, level) for a in WORLD if not isinstance(a, Continuous) for level in a.levels]


@pytest.mark.parametrize(("attribute", "level"), LEVELS, ids=[f"{a.name}-{level}" for a, level in LEVELS])
def test_each_level_is_mentioned_at_the_stated_rate(said, table, attribute, level):
    rows = np.flatnonzero(table[attribute.name] == level)
    rate = stated_rate(attribute, level)
    mentioned = np.isin(rows, said.loc[said["attribute"] == attribute.name, "row"])
    assert mentioned.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / len(rows)))


@pytest.mark.parametrize("attribute", [AGE, BMI], ids=lambda a: a.name)
def test_numbers_are_mentioned_at_the_rate_of_what_is_present(said, table, attribute):
    rows = np.flatnonzero(table[attribute.name].notna())
    rate = stated_rate(attribute, None)
    mentioned = np.isin(rows, said.loc[said["attribute"] == attribute.name, "row"])
    assert mentioned.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / len(rows)))


def test_mentions_of_different_attributes_are_independent(said, table):
    known = table.index[(table["ecg_leads"] == 0) & (table["control_dot"] == 0)]
    a, b = (np.isin(known, said.loc[said["attribute"] == name, "row"]) for name in ("ecg_leads", "control_dot"))
    assert (a & b).mean() == pytest.approx(0.09, abs=4 * np.sqrt(0.09 * 0.91 / len(known)))


def test_the_default_is_nine_in_ten_of_what_shows_and_three_in_ten_of_what_does_not():
    assert (DEFAULT_MENTION.present, DEFAULT_MENTION.absent) == (0.9, 0.3)


def test_synonyms_are_used_alike(said):
    for (name, claim), group in said[~said["attribute"].isin([*OPENING, "bmi"])].groupby(
        ["attribute", said["claim"].astype(str)], dropna=True
    ):
        counts = group["sentence"].value_counts()
        share = 1 / len(counts)
        bound = 4.5 * np.sqrt(share * (1 - share) / len(group)) + 1e-9
        assert (counts / len(group) - share).abs().max() < bound, (name, claim)


# The opening


def test_reports_open_with_view_sex_and_age_and_with_nothing_else(said, table):
    assert set(said.loc[said["attribute"].isin(OPENING), "place"]) == {0}
    assert set(said.loc[said["place"] == 0, "attribute"].dropna()) == set(OPENING)
    assert (said.groupby("row")["place"].min() == 0).all()


def test_the_wording_of_earlier_reports_is_among_the_openings():
    sentences = Grammar((AGE, SEX, VIEW)).sentences()
    for view, (sex, who), (age, band) in product(
        ("AP", "PA"), (("female", "woman"), ("male", "man")), ((61.0, "over 60"), (59.0, "60 or under"))
    ):
        claims = sentences[f"{view} view of a {who} aged {band}"]
        assert (claims["view"], claims["sex"]) == (view, sex)
        assert age in claims["age"]
        assert 120 - age not in claims["age"]


def test_sixty_is_not_over_60():
    under, over = write((AGE,), [60.0, 60.5])
    assert under.endswith("60 or under")
    assert over.endswith("over 60")


@pytest.mark.parametrize("attributes", [(), (VIEW,), (SEX,), (AGE,), (VIEW, SEX), (VIEW, AGE), (SEX, AGE)])
def test_an_opening_tells_what_the_world_has(attributes):
    table = sample(attributes, 40, np.random.default_rng(0)).reindex(range(40))
    grammar = Grammar(attributes)
    texts = grammar.write(table, np.random.default_rng(0))
    assert len(set(texts)) > 1
    for text in texts:
        assert grammar.sentences()[text].keys() == {a.name for a in attributes}


def test_levels_that_no_opening_knows_have_a_sentence_of_their_own():
    view = Categorical("view", levels=("PA", "oblique"), phrases={"oblique": "taken obliquely"})
    coded = Binary("sex")
    texts = write((view, coded), ["oblique", "PA"], [0, 1])
    assert "taken obliquely" in texts[0].split(" . ")
    assert not any(word in text for text in texts for word in ("woman", "no sex"))


def test_other_datasets_spellings_are_known():
    texts = write((Binary("sex", levels=("F", "M")), Binary("Cardiomegaly")), ["F", "M"], [1, 0], seed=1)
    assert "woman" in texts[0]
    assert "man" in texts[1].split(" . ")[0].split()
    assert set(Grammar([Binary("Cardiomegaly")]).sentences()) == set(Grammar([Binary("cardiomegaly")]).sentences())


# Words


@pytest.mark.parametrize("concept", [c for c in load_concepts() if c.attribute is None], ids=lambda c: c.name)
def test_the_concept_bank_asks_in_sentences_that_reports_say(concept):
    sentences = Grammar([Binary(concept.name)]).sentences()
    assert all(sentences[words] == {concept.name: 1} for words in concept.positive)
    assert all(sentences[words] == {concept.name: 0} for words in concept.negative)


def test_unknown_attributes_are_spoken_of_by_their_own_phrases():
    mood = Binary("mood", levels=("glad", "sad"), phrases={"glad": ("in good spirits", "smiling"), "sad": "in tears"})
    sentences = Grammar([mood, Continuous("dose", "mGy", 0, 100, phrases="{value:.0f} mGy")]).sentences()
    assert sentences["in good spirits"] == sentences["smiling"] == {"mood": "glad"}
    assert sentences["in tears"] == {"mood": "sad"}
    assert 7.2 in sentences["7 mGy"]["dose"]
    assert 7.6 not in sentences["7 mGy"]["dose"]


def test_levels_that_the_grammar_does_not_know_are_spoken_of_by_their_own_phrases():
    marker = Categorical("laterality_marker", ("absent", "neon sign"), phrases={"neon sign": "a neon sign glows"})
    sentences = Grammar([marker]).sentences()
    assert sentences["a neon sign glows"] == {"laterality_marker": "neon sign"}
    assert sentences["no laterality marker"] == {"laterality_marker": "absent"}


def test_what_has_no_phrases_is_named_and_denied_by_its_name():
    sentences = Grammar([Binary("heart_tattoo"), Categorical("hair_colour", levels=("red", "grey"))]).sentences()
    assert sentences["heart tattoo"] == {"heart_tattoo": 1}
    assert sentences["no heart tattoo"] == {"heart_tattoo": 0}
    assert sentences["hair colour red"] == {"hair_colour": "red"}


def test_the_same_words_for_near_numbers_assert_all_of_them():
    claims = Grammar([Continuous("dose", "mGy", 0, 1, phrases="{value:.0f} mGy")]).sentences()
    assert claims["0 mGy"]["dose"].left <= 0 < 0.49 < claims["0 mGy"]["dose"].right


# Order and chance


def test_findings_come_in_no_fixed_order(said):
    first = said[said["place"] == 1].groupby("row")["attribute"].first().value_counts(normalize=True)
    assert set(first.index) == {a.name for a in WORLD} - set(OPENING)
    assert first.max() < 0.15


def test_reports_are_the_same_for_the_same_seed(grammar, table, texts):
    pd.testing.assert_series_equal(grammar.write(table, np.random.default_rng(0)), texts)
    assert (grammar.write(table, np.random.default_rng(1)) != texts).mean() > 0.9


def test_the_first_reports_do_not_depend_on_how_many_follow(grammar, table, texts):
    pd.testing.assert_series_equal(grammar.write(table.head(10), np.random.default_rng(0)), texts.head(10))


def test_changing_one_attribute_changes_only_what_is_said_of_it(grammar, table, texts, said):
    changed = table.assign(effusion=pd.Categorical([1] * N, categories=[0, 1]))
    after = read(grammar, grammar.write(changed, np.random.default_rng(0)))
    columns = ["row", "sentence"]
    pd.testing.assert_frame_equal(
        *(s.loc[s["attribute"] != "effusion", columns].reset_index(drop=True) for s in (said, after))
    )
    assert (after["attribute"] == "effusion").sum() == N


def test_the_index_is_the_tables_and_other_columns_do_not_matter(grammar, table):
    odd = table.head(5).set_axis(list("edcba")).assign(patient=1)
    texts = grammar.write(odd, np.random.default_rng(0))
    assert list(texts.index) == list("edcba")
    assert texts.name == "text"
    assert len(grammar.write(table.head(0), np.random.default_rng(0))) == 0


def test_the_table_is_left_as_it_was(grammar, table):
    before = table.copy()
    grammar.write(table, np.random.default_rng(0))
    pd.testing.assert_frame_equal(table, before)


# Refusals


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("which", ["present", "absent"])
def test_a_probability_lies_between_0_and_1(which, share):
    with pytest.raises(ValueError, match=which):
        Mention(**{which: share})


def test_mentions_of_unknown_attributes_are_refused():
    with pytest.raises(ValueError, match="halo"):
        Grammar([Binary("icd")], {"halo": Mention()})


def test_two_attributes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="icd"):
        Grammar([Binary("icd"), Binary("icd")])


@pytest.mark.parametrize(
    "attributes",
    [
        [Binary("mask"), Binary("veil", phrases={1: "Mask"})],
        [Binary("mask", phrases={0: "covered", 1: "covered"})],
        [Binary("nodule"), Binary("spot", phrases={1: "a nodule is seen"})],
        [VIEW, Binary("mask", phrases={1: "AP view"})],
        [Continuous("a", "m", 0, 1, phrases="long"), Continuous("b", "m", 0, 1, phrases="long")],
    ],
)
def test_the_same_words_for_two_things_are_refused(attributes):
    with pytest.raises(ValueError, match="give one of them other phrases"):
        Grammar(attributes)


@pytest.mark.parametrize("phrase", ["left . right", "a mask .", ".", "  "])
def test_words_that_would_break_a_report_up_are_refused(phrase):
    with pytest.raises(ValueError, match="mask"):
        Grammar([Binary("mask", phrases={1: phrase})])


def test_a_table_without_a_column_is_refused(grammar, table):
    with pytest.raises(ValueError, match="icd"):
        grammar.write(table.drop(columns="icd"), np.random.default_rng(0))


def test_a_value_that_the_attribute_cannot_take_is_refused():
    with pytest.raises(ValueError, match="icd"):
        write((Binary("icd"),), [2])


# Any world

WORDS = st.text(alphabet="qxz_", min_size=1, max_size=4).filter(lambda s: s.strip("_") == s and "__" not in s)
KNOWN = st.sampled_from(["view", "sex", "age", "bmi", "pacemaker", "site", "weekday", "laterality_marker", "arms"])


@st.composite
def an_attribute(draw, name):
    kind = draw(st.sampled_from(["coin", "levels", "number"]))
    if kind == "number":
        low = draw(st.floats(-1e3, 1e3))
        phrases = draw(st.sampled_from([(), f"{name} is {{value:.0f}}", (f"{name} {{value:.1f}}", f"{name} measured")]))
        unit = draw(st.sampled_from(["years", "kV", ""]))
        return Continuous(name, unit, low, low + draw(st.floats(1e-2, 1e4)), phrases)
    if kind == "coin":
        phrases = draw(st.sampled_from([{}, {0: f"without {name}"}, {1: (f"with {name}", f"having {name}")}]))
        return Binary(name, phrases=phrases, hidden=draw(st.booleans()))
    pool = st.sampled_from(["PA", "AP", "male", "female", "F", "absent", "raised", "a b", 0, 1, 2.5, "weekend"])
    levels = draw(st.lists(pool, min_size=2, max_size=4, unique_by=str))
    return Categorical(name, levels=tuple(levels), hidden=draw(st.booleans()))


@st.composite
def a_world(draw):
    names = draw(st.lists(st.one_of(WORDS.map("thing_{}".format), KNOWN), max_size=6, unique=True))
    return [draw(an_attribute(name)) for name in names]


@settings(max_examples=60, deadline=None)
@given(
    world=a_world(),
    present=st.floats(0, 1),
    absent=st.floats(0, 1),
    share_missing=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_reports_of_any_world_are_true(world, present, absent, share_missing, seed):
    rng = np.random.default_rng(seed)
    table = sample(world, 20, rng, share_missing).reindex(range(20))
    grammar = Grammar(world, default=Mention(present, absent))
    texts = grammar.write(table, rng)
    assert all(texts)
    assert_never_wrong(read(grammar, texts), table)


@settings(max_examples=30, deadline=None)
@given(world=a_world(), seed=st.integers(0, 2**32 - 1))
def test_with_full_mention_every_known_value_is_told(world, seed):
    rng = np.random.default_rng(seed)
    table = sample(world, 10, rng, share_missing=0.2).reindex(range(10))
    grammar = Grammar(world, default=Mention(1, 1))
    said = read(grammar, grammar.write(table, rng)).dropna(subset="attribute")
    assert set(zip(said["row"], said["attribute"], strict=True)) == {
        (i, a.name) for a in world for i in np.flatnonzero(table[a.name].notna())
    }


# The file


def file_sentences():
    """(attribute, value, sentence) of every one that the file spells out."""
    for name, entry in load_grammar()["attributes"].items():
        assert entry.keys() <= {"present", "absent", "levels", "any"}, name
        named = {**entry.get("levels", {}), **{k: entry[k] for k in ("present", "absent", "any") if k in entry}}
        for value, sentences in named.items():
            for sentence in sentences:
                yield name, value, sentence


def test_the_file_says_nothing_twice():
    everything = [s.casefold() for _, _, s in file_sentences()]
    everything += [t.casefold() for t in load_grammar()["openings"]["templates"]]
    assert len(everything) == len(set(everything))


def test_the_file_spells_no_name_twice():
    names = [spelt.strip() for key in load_grammar()["attributes"] for spelt in key.split("|")]
    assert len(names) == len(set(names))


def test_sentences_are_short_and_plain():
    texts = [s for _, _, s in file_sentences()] + load_grammar()["openings"]["templates"]
    for text in texts:
        assert isinstance(text, str), text
        assert text == " ".join(text.split()), text
        assert text.isascii(), text
        # Tokens, not only words: a text tower reads 16 of them, its two ends included.
        filled = text.replace("{age}", "60 or under").replace("{level}", "two words")
        assert len(re.findall(r"\w+|[^\w\s]", filled)) <= 14, text
        assert "." not in text, text
        assert text[0].islower() or text[0] == "{" or text.split()[0] in {"ECG", "ET", "NG", "ICD"}, text


def test_only_sentences_for_any_level_and_openings_have_placeholders():
    for name, value, sentence in file_sentences():
        assert placeholders(sentence) == ({"level"} if value == "any" else set()), (name, sentence)


def test_every_combination_of_view_sex_and_age_has_openings():
    found = [frozenset(placeholders(template)) for template in load_grammar()["openings"]["templates"]]
    subsets = [
        frozenset(x for x, kept in zip(OPENING, bits, strict=True) if kept) for bits in product((0, 1), repeat=3)
    ]
    assert set(found) == set(subsets)
    assert all(found.count(subset) >= 2 for subset in subsets)


def test_there_are_three_to_five_ways_to_say_that_a_thing_is_there_and_two_or_three_that_it_is_not():
    for name, entry in load_grammar()["attributes"].items():
        assert ("present" in entry) == ("absent" in entry), name
        for value, sentences in [("present", entry.get("present")), *entry.get("levels", {}).items()]:
            assert sentences is None or 3 <= len(sentences) <= 5, (name, value)
        assert 2 <= len(entry.get("absent", "xx")) <= 3, name


def test_a_negation_names_its_thing_and_no_presence_is_worded_as_a_negation():
    for name, value, sentence in file_sentences():
        assert value != "present" or not re.search(r"\b(no|not|without)\b", sentence), (name, sentence)
        assert value != "absent" or re.search(r"\b(no|not|normal|out of)\b", sentence), (name, sentence)


def test_a_world_of_everything_the_file_knows_has_no_two_things_with_the_same_words():
    world = [
        Binary(name.split("|")[0].strip())
        if "present" in entry
        else Categorical(name.split("|")[0].strip(), levels=tuple(entry.get("levels", {"one": [], "two": []})))
        for name, entry in load_grammar()["attributes"].items()
    ]
    sentences = Grammar([*world, *(Categorical(f"{a.name} kind", levels=("b", "c")) for a in world)]).sentences()
    assert {name for claims in sentences.values() for name in claims} >= {a.name for a in world}
    assert set(chain(*((s,) for _, v, s in file_sentences() if v in ("present", "absent")))) <= set(sentences)
