"""YAML files that people write: read into a pydantic model, with errors that name the file, the line and the key."""

import types
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[str | int, ...]  #: keys and indices from the top of the file

#: pydantic's kinds of "of the wrong type" -> what was awaited.
_AWAITED: Mapping[str, str] = {
    "float_type": "a number", "float_parsing": "a number", "finite_number": "a finite number",
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "string_type": "text", "bool_type": "true or false", "bool_parsing": "true or false", "path_type": "a path",
    "list_type": "a list", "tuple_type": "a list", "dict_type": "keys with values", "model_type": "keys with values",
    "model_attributes_type": "keys with values", "mapping_type": "keys with values", "dataclass_type": "keys with values",
    "dataclass_exact_type": "keys with values",
}  # fmt: skip


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  #: pydantic's kinds of "no such key"


class BadKey(ValueError):  # noqa: N818 - reads as what it is
    """What stands at ``loc`` is wrong; :func:`read_yaml` finds its line."""

    def __init__(self, loc: Place, message: str) -> None:
        self.loc = loc
        super().__init__(message)


def read_yaml(
    file: str | Path,
    model: type[Model],
    *,
    error: type[ValueError],
    check: Callable[[Model], Any] = lambda content: None,
) -> Model:
    """Read and check a file; the safe loader builds plain data only.

    Args:
        file: to read.
        model: whose fields are the file's keys.
        error: what is raised.
        check: called with the model; may raise :class:`BadKey`.

    Raises:
        error: no such file, no YAML, or content that model or check refuse: ``file:line: key: what is wrong``.
    """
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"{file} does not exist; give the path of a YAML file.") from None
    except UnicodeDecodeError as problem:
        line = problem.object[: problem.start].count(b"\n") + 1
        raise error(f"{file}:{line}: is no UTF-8 text ({problem.reason}); save the file as UTF-8.") from None
    except OSError as problem:
        raise error(f"{file} cannot be read ({problem.strerror}); give the path of a YAML file.") from None
    content, plain = _parsed(file, text, error)
    if not isinstance(content, Mapping):
        needed = [name for name, field in model.model_fields.items() if field.is_required()]
        raise error(f"{file} holds no keys; it needs {', '.join(needed)}.")
    try:
        read = model.model_validate(plain)
        check(read)
    except ValidationError as problem:
        told = [(line_of(content, place), place, said) for place, said in explain(problem, model, plain)]
        raise error("\n".join(f"{file}:{line}: {_key(place)}: {said}" for line, place, said in told)) from None
    except BadKey as problem:
        raise error(f"{file}:{line_of(content, problem.loc)}: {_key(problem.loc)}: {problem}") from None
    return read


def line_of(content: Any, loc: Place) -> int:
    """Line of the deepest part of ``loc`` that the file has; a missing key's is its parent's."""
    line = 0
    for part in loc:
        if isinstance(content, Mapping) and part in content:
            if part in content.lc.data:  # type: ignore[attr-defined]  # not so if it was merged in from an anchor
                line = content.lc.key(part)[0]  # type: ignore[attr-defined]
            content = content[part]
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            line = content.lc.item(part)[0]  # type: ignore[attr-defined]
            content = content[part]
    return line + 1


def explain(problem: ValidationError, model: type[BaseModel], data: Any) -> list[tuple[Place, str]]:
    """pydantic's errors for people: one a mistake, at the file's own key, with what was awaited and what came.

    A value that may be of several types has an error for each; those of types that it does not even look like are left
    out, and where it looks like none there is one error that names them all.

    Args:
        problem: raised by ``model.model_validate(data)``.
        model: for the keys that it has.
        data: plain data.

    Returns:
        Places and messages, in the order of pydantic's.
    """
    errors = [_Error.of(e, data) for e in problem.errors()]
    misspelt = {(*e.place[:-1], e.meant(model)) for e in errors if e.kind in _UNKNOWN}
    told: dict[tuple[Place, str], None] = {}
    for e in errors:
        if e.misfit is not None:
            rivals = [o for o in errors if any(branch == e.misfit for branch, _ in o.branches)]
            if any(o.misfit != e.misfit for o in rivals):
                continue
            awaited = dict.fromkeys(_AWAITED[o.kind] for o in rivals)
            told[e.place, f"awaits {' or '.join(awaited)}, got {_shortly(e.given)}."] = None
        elif e.kind != "missing" or e.place not in misspelt:
            told[e.place, e.message(model)] = None
    return list(told)


class _Error:
    """One of pydantic's errors, its place cleared of the names of types.

    Attributes:
        branches: (place of a value that may be of several types, the one tried).
        misfit: that place, where the value is not of the tried type at all.
    """

    def __init__(self, raw: Mapping[str, Any], place: Place, branches: list[tuple[Place, str]]) -> None:
        self.raw, self.place, self.branches = raw, place, branches
        self.kind, self.given = raw["type"], raw["input"]
        last = raw["loc"][-1] if raw["loc"] else None
        unfit = branches and branches[-1] == (place, str(last)) and self.kind in _AWAITED
        self.misfit: Place | None = place if unfit else None

    @classmethod
    def of(cls, raw: Mapping[str, Any], data: Any) -> "_Error":
        place: Place = ()
        branches = []
        for i, part in enumerate(raw["loc"]):
            listed = isinstance(data, Sequence) and not isinstance(data, str)
            if (isinstance(data, Mapping) and part in data) or (listed and isinstance(part, int) and part < len(data)):
                place, data = (*place, part), data[part]
            elif raw["type"] == "missing" and i == len(raw["loc"]) - 1:
                place = (*place, part)
            else:
                branches.append((place, str(part)))
        return cls(raw, place, branches)

    def meant(self, model: type[BaseModel]) -> str | None:
        """The key that an unknown one looks like."""
        close = get_close_matches(str(self.place[-1]), _keys_beside(model, self.place), n=1)
        return close[0] if close else None

    def message(self, model: type[BaseModel]) -> str:
        """What is wrong and the mend."""
        if self.kind in _AWAITED:
            return f"awaits {_AWAITED[self.kind]}, got {_shortly(self.given)}."
        if self.kind == "missing":
            return f"is missing; add {self.place[-1]}: ..."
        if self.kind in _UNKNOWN:
            meant = self.meant(model)
            guess = f"did you mean {meant!r}? The" if meant else "the"
            return (
                f"Extra inputs are not permitted; {guess} keys here are {', '.join(_keys_beside(model, self.place))}."
            )
        said = str(self.raw["msg"]).removeprefix("Value error, ")
        if self.kind in ("value_error", "union_tag_invalid"):
            return said
        return f"{said}, got {_shortly(self.given)}."


def _keys_beside(model: type[BaseModel], place: Place) -> list[str]:
    """Keys that may stand where the last part of ``place`` does."""
    found: list[Any] = [model]
    for part in place[:-1]:
        inner: list[Any] = []
        for kind in found:
            fields = _fields(kind)
            if fields:
                inner += _alternatives(fields.get(str(part)))
            elif get_origin(kind) in (dict, list, tuple, Mapping):
                inner += _alternatives(get_args(kind)[-1 if get_origin(kind) in (dict, Mapping) else 0])
        found = inner
    return list(dict.fromkeys(name for kind in found for name in _fields(kind)))


def _fields(kind: Any) -> dict[str, Any]:
    """Key -> type, of models and dataclasses."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {
            f.validation_alias if isinstance(f.validation_alias, str) else n: f.annotation
            for n, f in kind.model_fields.items()
        }
    return {name: f.type for name, f in getattr(kind, "__dataclass_fields__", {}).items()}


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [annotation]


def _parsed(file: Path, text: str, error: type[ValueError]) -> tuple[Any, Any]:
    """The content with its lines, and as plain data."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML().load(text), YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        said = problem.problem or problem.context
        hint = " Indent with spaces." if "'\\t'" in str(said) else ""
        raise error(f"{file}:{mark.line + 1 if mark else 1}: is no YAML: {said}.{hint}") from None
    except RecursionError:
        raise error(f"{file} is no YAML that can be read: it is nested too deeply.") from None
    except (YAMLError, ValueError) as problem:
        raise error(f"{file} is no YAML: {problem}") from None


def _shortly(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."


def _key(loc: Place) -> str:
    return ".".join(map(str, loc))
