"""A file is there whole or not at all."""

import json

import pytest

from causal_cxr.data.whole_file import whole_file, write_json


def fill_the_disk(file):
    with whole_file(file) as partial:
        partial.write_text("[1, 2, 3")
        raise RuntimeError("disk full")


def test_a_writer_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    file = tmp_path / "numbers.json"
    write_json(file, [1, 2])
    with pytest.raises(RuntimeError, match="disk full"):
        fill_the_disk(file)
    assert json.loads(file.read_text()) == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]


def test_what_json_cannot_say_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "new.json", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_two_writers_at_once_do_not_mix(tmp_path):
    file = tmp_path / "log.txt"
    with whole_file(file) as one, whole_file(file) as other:
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one", "the outer block ends last"


def test_folders_are_made(tmp_path):
    write_json(tmp_path / "a" / "b" / "c.json", {})
    assert (tmp_path / "a" / "b" / "c.json").read_text() == "{}"
