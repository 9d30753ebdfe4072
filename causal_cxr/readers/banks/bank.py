"""Reading concept banks: what a bank file may say, and how names become phrases."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from causal_cxr.data.yaml_file import BadKey, read_yaml
from causal_cxr.graphs import Value
from causal_cxr.readers.concepts import Concept

BANKS: Mapping[str, Path] = {file.stem: file for file in sorted(Path(__file__).parent.glob("*.yaml"))}


class BankError(ValueError):
    """What is wrong with a bank file: ``file:line: key: what, and the mend``."""


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Phrasing(_Block):
    """Templates that turn one name into several phrases: an ensemble for and one against (CLIP, Radford et al., ICML
    2021, section 3.1.4).

    Write the two alike, so that in their difference what the template itself says cancels and the name remains.

    Attributes:
        positive: ``{name}`` is replaced by each of a concept's ``synonyms``, ``{a_name}`` by it with its article.
        negative: the same, by each of its ``antonyms`` where it has any, else by its synonyms.
    """

    positive: tuple[str, ...] = Field(min_length=1)
    negative: tuple[str, ...] = Field(min_length=1)

    @field_validator("positive", "negative")
    @classmethod
    def _has_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            try:
                first, second = (template.format(name=name, a_name=name) for name in ("one", "other"))
            except (KeyError, IndexError, ValueError):
                first = second = ""
            if first == second:
                raise ValueError(
                    f"{template!r} has no place for the name; write {{name}} or {{a_name}} there, no other."
                )
        return templates


#: Ensembles of every bank, by the ``phrasing`` that a concept names; a bank may add more.
PHRASINGS: Mapping[str, Phrasing] = {
    "thing": Phrasing(  # one of several that can be counted: "pacemaker"
        positive=("{a_name}", "{a_name} is seen", "there is {a_name}", "chest radiograph with {a_name}"),
        negative=("no {name}", "no {name} is seen", "there is no {name}", "chest radiograph without {a_name}"),
    ),
    "things": Phrasing(  # in the plural: "sternal wires"
        positive=("{name}", "{name} are seen", "there are {name}", "chest radiograph with {name}"),
        negative=("no {name}", "no {name} are seen", "there are no {name}", "chest radiograph without {name}"),
    ),
    "matter": Phrasing(  # what is not counted: "scoliosis", "text"
        positive=("{name}", "{name} is seen", "there is {name}", "chest radiograph with {name}"),
        negative=("no {name}", "no {name} is seen", "there is no {name}", "chest radiograph without {name}"),
    ),
    "clause": Phrasing(  # a statement, whose contrary stands under antonyms: "the patient is rotated"
        positive=("{name}", "on this chest radiograph {name}", "chest radiograph; {name}"),
        negative=("{name}", "on this chest radiograph {name}", "chest radiograph; {name}"),
    ),
}


class Entry(_Block):
    """One concept of a bank file; see :class:`~causal_cxr.readers.Concept` for what is not said here.

    Attributes:
        synonyms: what it is called, the usual word first; without an article, which the templates set.
        antonyms: what its absence is called, if not "no ...".
        phrasing: the ensemble that synonyms and antonyms are put into: one of :data:`PHRASINGS` or of the bank's own.
        positive, negative: phrases that stand as they are, before those made from names.
        sources: vocabulary -> its term or terms for this.
    """

    group: str | None = None
    consequence: bool | None = None
    control: bool = False
    synonyms: tuple[str, ...] = ()
    antonyms: tuple[str, ...] = ()
    phrasing: str = "thing"
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    region: tuple[float, float, float, float] | None = None
    sources: dict[str, str | tuple[str, ...]] = {}
    attribute: str | None = None
    level: Value | None = None
    above: float | None = None

    def concept(self, name: str, phrasings: Mapping[str, Phrasing]) -> Concept:
        """The concept, its names made into phrases.

        Raises:
            BadKey: the phrasing is unknown.
            ValueError: the concept is refused.
        """
        if self.phrasing not in phrasings:
            raise BadKey(("phrasing",), f"there is no {self.phrasing!r}; there are {', '.join(phrasings)}.")
        ensemble = phrasings[self.phrasing]
        sources = {at: (terms,) if isinstance(terms, str) else terms for at, terms in self.sources.items()}
        return Concept(
            name,
            _distinct([*self.positive, *_filled(ensemble.positive, self.synonyms)]),
            _distinct([*self.negative, *_filled(ensemble.negative, self.antonyms or self.synonyms)]),
            region=self.region,
            control=self.control,
            attribute=self.attribute,
            level=self.level,
            above=self.above,
            group=self.group,
            consequence=self.consequence,
            synonyms=self.synonyms,
            sources=tuple(f"{at}: {term}" for at, terms in sources.items() for term in terms),
        )


class BankFile(_Block):
    """The keys of a bank file.

    Attributes:
        extends: banks whose concepts this one has too: names of the package's own, or files beside this one.
        phrasings: ensembles of its own, by name.
        concepts: by name.
    """

    extends: str | tuple[str, ...] = ()
    phrasings: dict[str, Phrasing] = {}
    concepts: dict[str, Entry] = Field(min_length=1)


def read_banks(banks: Iterable[str | Path]) -> dict[str, Concept]:
    """All concepts of some banks, and of those that they extend, each file read once.

    Args:
        banks: names of the package's own, or YAML files.

    Returns:
        name -> concept, extended banks first.

    Raises:
        BankError: names the file, the line and the key; for a name that two banks have, both files.
    """
    found: dict[str, tuple[Concept, Path]] = {}
    files: set[Path] = set()
    for bank in banks:
        _read(_file(bank), found, files)
    return {name: concept for name, (concept, _) in found.items()}


def _read(file: Path, found: dict[str, tuple[Concept, Path]], files: set[Path]) -> None:
    if file.resolve() in files:
        return
    files.add(file.resolve())

    def take(content: BankFile) -> None:
        for bank in (content.extends,) if isinstance(content.extends, str) else content.extends:
            try:
                extended = _file(bank, beside=file.parent)
            except BankError as problem:
                raise BadKey(("extends",), str(problem)) from None
            _read(extended, found, files)
        for name, entry in content.concepts.items():
            if name in found:
                raise BadKey(("concepts", name), f"is in {found[name][1]} too; rename one of the two.")
            try:
                found[name] = entry.concept(name, {**PHRASINGS, **content.phrasings}), file
            except BadKey as problem:
                raise BadKey(("concepts", name, *problem.loc), str(problem)) from None
            except ValueError as problem:
                raise BadKey(("concepts", name), str(problem)) from None

    read_yaml(file, BankFile, error=BankError, check=take)


def _file(bank: str | Path, beside: Path = Path()) -> Path:
    if str(bank) in BANKS:
        return BANKS[str(bank)]
    if Path(bank).suffix not in (".yaml", ".yml"):
        raise BankError(f"There is no bank {str(bank)!r}; name one of {list(BANKS)}, or a file that ends in .yaml.")
    return beside / bank


def _filled(templates: Iterable[str], names: Iterable[str]) -> list[str]:
    return [template.format(name=name, a_name=_with_article(name)) for name in names for template in templates]


def _with_article(name: str) -> str:
    """
    >>> [_with_article(name) for name in ("pacemaker", "arrow", "ECG lead", "ICD", "PICC line", "unilateral mark")]
    ['a pacemaker', 'an arrow', 'an ECG lead', 'an ICD', 'a PICC line', 'a unilateral mark']
    """
    first = name.split()[0]
    spelt = first.isupper() and len(first) <= 4  # letters are read out: an ECG, an LVAD
    vowel = name[0] in "AEFHILMNORSX" if spelt else name[0].lower() in "aeiou" and not name.startswith("uni")
    return f"{'an' if vowel else 'a'} {name}"


def _distinct(phrases: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(phrases))
