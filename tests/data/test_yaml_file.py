"""Errors of YAML files: the file, the line, the key, what was awaited and what came."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from causal_cxr.data.yaml_file import BadKey, read_yaml


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Cat(Strict):
    kind: Literal["cat"]
    lives: int = Field(default=9, ge=1)


class Dog(Strict):
    kind: Literal["dog"]
    tricks: list[str] = []


class House(Strict):
    name: str
    rent: float
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    rooms: dict[str, float | Cat] = {}
    codes: dict[str | int, float | dict[str | int, float]] = {}
    either: Cat | list[Cat] | None = None
    pair: tuple[int, int] = (0, 0)
    shut: bool = False


class HouseError(ValueError):
    pass


def read(text, tmp_path, **options):
    file = tmp_path / "house.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(file, House, error=HouseError, **options)


GOOD = "name: a\nrent: 3\n"


def test_what_is_good_is_read(tmp_path):
    house = read(GOOD + "rooms:\n  hall: 2\n  attic: {kind: cat}\ncodes: {1: {2: 3}}\n", tmp_path)
    assert house.rooms["attic"] == Cat(kind="cat")
    assert house.codes == {1: {2: 3.0}}


def test_anchors_and_merged_keys_are_read(tmp_path):
    text = GOOD + "rooms:\n  hall: &cat {kind: cat}\n  attic: {<<: *cat, lives: 3}\n"
    assert read(text, tmp_path).rooms["attic"].lives == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: null\nrent: 3\n", ["1: name: awaits text, got nothing (null)."]),
        ("name: a\n", ["1: rent: is missing; add rent: ..."]),
        ("name: a\n\nrnet: 3\n", ["3: rnet: Extra inputs are not permitted; did you mean 'rent'?"]),
        (GOOD + "colour: red\n", ["3: colour: Extra inputs are not permitted; the keys here are name, rent, pet, rooms"]),
        ("name: a\nrent: low\n", ["2: rent: awaits a number, got 'low'."]),
        (GOOD + "shut: maybe\n", ["3: shut: awaits true or false, got 'maybe'."]),
        (GOOD + "pair: [1, two]\n", ["3: pair.1: awaits a whole number, got 'two'."]),
        (GOOD + "pair:\n  - 1\n  - 2.5\n", ["5: pair.1: awaits a whole number, got 2.5."]),
        (GOOD + "pair: 1\n", ["3: pair: awaits a list, got 1."]),
        (GOOD + "rooms: hall\n", ["3: rooms: awaits keys with values, got 'hall'."]),
        (GOOD + "rooms:\n  hall: big\n", ["4: rooms.hall: awaits a number or keys with values, got 'big'."]),
        (GOOD + "rooms:\n  hall: {kind: cat, lives: 0}\n", ["4: rooms.hall.lives: Input should be greater than or equal to 1, got 0."]),
        (GOOD + "rooms:\n  hall: {kind: cow}\n", ["4: rooms.hall.kind: Input should be 'cat', got 'cow'."]),
        (GOOD + "rooms:\n  hall: {kind: cat, live: 1}\n", ["4: rooms.hall.live: Extra inputs are not permitted; did you mean 'lives'?"]),
        (GOOD + "codes:\n  1:\n    2: x\n", ["5: codes.1.2: awaits a number, got 'x'."]),
        (GOOD + "either:\n  lives: 3\n", ["3: either.kind: is missing; add kind: ..."]),
        (GOOD + "either:\n  - {kind: cat}\n  - {kind: cat, lives: x}\n", ["5: either.1.lives: awaits a whole number, got 'x'."]),
        (GOOD + "either: 3\n", ["3: either: awaits keys with values or a list, got 3."]),
        (GOOD + "pet: {kind: cow}\n", ["3: pet: ", "'cat', 'dog'"]),
        (GOOD + "pet:\n  kind: dog\n  trick: [sit]\n", ["5: pet.trick: Extra inputs"]),
        (GOOD + f"pair: [{'x' * 90}, 1]\n", ["3: pair.0: awaits a whole number, got 'xxx", "..."]),
    ],
)  # fmt: skip
def test_one_mistake_has_one_line_for_people(text, told, tmp_path):
    with pytest.raises(HouseError) as error:
        read(text, tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'house.yaml'}:{told[0]}")
    assert all(words in message for words in told[1:])
    assert len(message.splitlines()) == 1


def test_two_mistakes_have_two_lines(tmp_path):
    with pytest.raises(HouseError) as error:
        read("rent: x\nrooms: {hall: y}\n", tmp_path)
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == ["name", "rent", "rooms.hall"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no keys; it needs name, rent"),
        ("# nothing\n", "holds no keys"),
        ("- name\n- rent\n", "holds no keys"),
        ("name\n", "holds no keys"),
        ("name: a\nname: b\n", r'house.yaml:2: is no YAML: found duplicate key "name"'),
        ("name: a\n\trent: 3\n", r"house.yaml:2: is no YAML: .*Indent with spaces"),
        ("name: [a\nrent: 3\n", r"house.yaml:\d: is no YAML"),
        ("name: a\n---\nname: b\n", "is no YAML: .*another document"),
        ("name: !!python/object:os.system a\n", "house.yaml:1: is no YAML"),
        ("name: *gone\n", "house.yaml:1: is no YAML: found undefined alias"),
        ("name: 2020-99-99\n", "is no YAML"),
        ("name: a\nrent: \x00\n", "is no YAML"),
        ("[" * 400, "is no YAML"),
        (b"name: a\nrent: \xff\xfe\n", "house.yaml:2: is no UTF-8 text .*; save the file as UTF-8"),
        (b"\xff\xfen\x00a\x00", "is no UTF-8 text"),
    ],
    ids=range(15),
)
def test_what_is_no_mapping_in_yaml_is_refused_without_another_type_of_error(text, message, tmp_path):
    with pytest.raises(HouseError, match=message):
        read(text, tmp_path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(HouseError, match=r"gone\.yaml does not exist; give the path of a YAML file"):
        read_yaml(tmp_path / "gone.yaml", House, error=HouseError)
    with pytest.raises(HouseError, match="cannot be read"):
        read_yaml(tmp_path, House, error=HouseError)


@pytest.mark.parametrize(
    ("loc", "line"),
    [(("rooms", "hall"), 4), (("rooms", "cellar"), 3), (("gone",), 1), (("pair", 1), 7), (("pair", 9), 5)],
)
def test_a_check_names_a_key_and_the_line_is_found(loc, line, tmp_path):
    def check(house):
        raise BadKey(loc, "is haunted; move out.")

    with pytest.raises(HouseError, match=rf":{line}: {'.'.join(map(str, loc))}: is haunted; move out.$"):
        read(GOOD + "rooms:\n  hall: 1\npair:\n  - 1\n  - 2\n", tmp_path, check=check)


def test_the_line_of_a_merged_key_is_that_of_what_it_was_merged_into(tmp_path):
    def check(house):
        raise BadKey(("rooms", "attic", "kind"), "purrs.")

    text = GOOD + "rooms:\n  hall: &cat {kind: cat}\n  attic:\n    <<: *cat\n    lives: 3\n"
    with pytest.raises(HouseError, match=r":5: rooms\.attic\.kind: purrs\."):
        read(text, tmp_path, check=check)
