import dataclasses
import enum
import math
import pathlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from ftbench.component import (
    Component,
    Options,
    OptionsT,
    build_options,
    parse_reference,
    split_references,
)
from ftbench.errors import PluginError, SpecError
from tests.support import printed_over_hash_seeds

NAMES = st.from_regex(r"[A-Za-z0-9][\w.-]{0,8}", fullmatch=True)
KEYS = st.sampled_from(["stages", "alpha", "beta", "x1", "form"])
SCALARS = (
    st.integers(-99, 99)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
    | st.text("abc ,()[]='\"\\é", max_size=6)
)
VALUES = SCALARS | st.tuples(SCALARS, SCALARS)


class PartialOptions(Options):
    stages: int = Field(1, ge=0)
    rates: tuple[float, ...] = (1.0, 0.1)
    names: list[str] = Field(default_factory=list)
    form: str = "plain"


class Partial(Component):
    kind = "strategy"
    name = "partial"
    Options = PartialOptions


def spell(name, options):
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"


@given(NAMES, st.dictionaries(KEYS, VALUES))
def test_a_reference_is_a_name_and_python_literals(name, options):
    assert parse_reference(spell(name, options)) == [(name, options)]


@given(NAMES, st.dictionaries(KEYS, st.lists(VALUES, min_size=1, max_size=3), max_size=3))
def test_lists_are_a_grid_over_their_product(name, axes):
    found = parse_reference(spell(name, axes))
    assert len(found) == math.prod(len(axis) for axis in axes.values())
    assert {point for point, _ in found} == {name}
    for _, options in found:
        assert options.keys() == axes.keys()
        assert all(options[key] in axes[key] for key in axes)
    for key, axis in axes.items():
        assert [v for v in axis if v not in [options[key] for _, options in found]] == []


def test_a_grid_is_walked_with_the_last_option_fastest():
    assert parse_reference("partial(stages=[1,2,3])") == [
        ("partial", {"stages": 1}),
        ("partial", {"stages": 2}),
        ("partial", {"stages": 3}),
    ]
    points = [options for _, options in parse_reference("l2sp(alpha=[0.1, 1], beta=[0, 2])")]
    assert [(p["alpha"], p["beta"]) for p in points] == [(0.1, 0), (0.1, 2), (1, 0), (1, 2)]


def test_a_tuple_is_one_value_and_a_list_within_a_list_is_a_value_of_the_grid():
    assert parse_reference("p(rates=(1, 0.1))") == [("p", {"rates": (1, 0.1)})]
    assert parse_reference("p(names=[['a', 'b'], []])") == [
        ("p", {"names": ["a", "b"]}),
        ("p", {"names": []}),
    ]


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("timm/resnet50", "timm", {"model": "resnet50"}),
        ("timm/tf_efficientnet_lite0.in1k", "timm", {"model": "tf_efficientnet_lite0.in1k"}),
        ("hf/google/vit-base(layers=3)", "hf", {"model": "google/vit-base", "layers": 3}),
        (" hf/hf-hub:timm/x () ", "hf", {"model": "hf-hub:timm/x"}),
    ],
)
def test_a_family_and_its_model_are_the_family_with_its_option(text, name, options):
    assert parse_reference(text) == [(name, options)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("timm/", "'timm/' ends before its model; write family/model"),
        ("timm/(a=1)", "ends before its model"),
        ("timm/a(model='b')", "says its model twice"),
        ("timm/a b", "cannot read"),
    ],
)
def test_half_a_model_or_two_are_refused(text, problem):
    with pytest.raises(SpecError, match=re.escape(problem)):
        parse_reference(text)


def test_spaces_and_empty_brackets_are_allowed():
    assert parse_reference("  head-only ") == parse_reference("head-only()") == [("head-only", {})]
    assert parse_reference(" p ( a = 1 ) ") == [("p", {"a": 1})]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(a=1)",
        "p(a=1",
        "p a=1",
        "p(a=1) q",
        "p(1)",
        "p(**{'a': 1})",
        "p(a=b)",
        "p(a=f(1))",
        "p(a=__import__('os'))",
        "p(a=)",
        "p(a=1)(b=2)",  # calls of a call: the first options would be lost
        "p(a=1).q(b=2)",
        "p(a=1, a=2)",  # the first would be lost
        "p(a={[1]: 2})",
    ],
)
def test_an_unreadable_reference_is_quoted_with_what_may_be_written(text):
    with pytest.raises(SpecError, match=r"(?s)cannot read .*write name") as caught:
        parse_reference(text)
    assert f"'{text}'" in str(caught.value)


def test_an_empty_list_is_refused():
    with pytest.raises(SpecError, match=r"'p\(a=\[\]\)' is an empty list"):
        parse_reference("p(a=[])")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        (" a , ,b, ", ["a", "b"]),
        ("", []),
        ("p(a=1,b=[2,3]),q", ["p(a=1,b=[2,3])", "q"]),
        ("p(a='x,y)'),q", ["p(a='x,y)')", "q"]),
        ('p(a="it\'s,"),q', ['p(a="it\'s,")', "q"]),
        (r"p(a='it\'s, b'),q", [r"p(a='it\'s, b')", "q"]),
        ("p(a={'k': (1,2)}),20,10%", ["p(a={'k': (1,2)})", "20", "10%"]),
    ],
)
def test_commas_inside_brackets_and_quotes_do_not_separate(text, parts):
    assert split_references(text) == parts


@given(st.lists(st.tuples(NAMES, st.dictionaries(KEYS, VALUES, max_size=2)), max_size=4))
def test_a_comma_list_of_references_is_split_where_they_were_joined(references):
    texts = [spell(name, options) for name, options in references]
    assert split_references(", ".join(texts)) == texts


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "partial"),
        ({"stages": 1, "form": "plain"}, "partial"),  # named, but the defaults
        ({"stages": 2}, "partial(stages=2)"),
        ({"form": "classic", "stages": 0}, "partial(stages=0, form='classic')"),
        ({"rates": (1, 0.5)}, "partial(rates=(1.0, 0.5))"),
        ({"names": []}, "partial"),
        ({"names": ["a"]}, "partial(names=('a',))"),  # a list would be a grid
    ],
)
def test_a_label_shows_only_what_differs_from_the_defaults(options, label):
    assert Partial(build_options(Partial, options)).label == label


def test_options_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Partial().options.stages = 3


def test_no_options_mean_the_defaults():
    assert Partial().options == build_options(Partial, {}) == PartialOptions()


def test_an_unknown_option_names_the_component_the_nearest_and_all_known():
    expected = (
        r"^strategy 'partial': unknown option 'stage'; did you mean 'stages'\? "
        r"\(known: form, names, rates, stages\)$"
    )
    with pytest.raises(SpecError, match=expected):
        build_options(Partial, {"stage": 2})


def test_an_option_far_from_all_known_ones_gets_no_hint():
    with pytest.raises(SpecError, match=r"unknown option 'qqq' \(known: form"):
        build_options(Partial, {"qqq": 2})


def test_a_component_without_options_says_so():
    class Bare(Component):
        name = "bare"

    with pytest.raises(SpecError, match=r"component 'bare': unknown option 'x' \(known: none\)"):
        build_options(Bare, {"x": 1})


def test_a_wrong_value_is_shown_with_its_option():
    with pytest.raises(SpecError, match=r"option 'stages': .*greater than or equal to 0, got -1"):
        build_options(Partial, {"stages": -1})
    with pytest.raises(SpecError, match=r"option 'rates.1': .*valid number.*, got 'fast'"):
        build_options(Partial, {"rates": (1, "fast")})
    with pytest.raises(SpecError, match=r"option 'rates\.0': .*finite number"):
        build_options(Partial, {"rates": (float("inf"),)})


def test_every_problem_is_named_at_once():
    with pytest.raises(SpecError, match=r"'stages': .*; .*unknown option 'shape'"):
        build_options(Partial, {"stages": "many", "shape": 1})


# Canonical options.


class Depth(enum.Enum):
    UPPER = "upper"


class Nested(Options):
    words: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Spot:
    x: int
    y: int = 0


class Everything(Component):
    kind = "strategy"
    name = "everything"

    class Options(Options):
        words: frozenset[str] = frozenset()
        numbers: set[float] = Field(default_factory=set)
        table: dict[str, set[int]] = Field(default_factory=dict)
        pairs: tuple[frozenset[str], ...] = ()
        depth: Depth | None = None
        rate: float = 1.0
        path: pathlib.Path | None = None
        nested: Nested = Nested()
        models: frozenset[Nested] = frozenset()
        points: frozenset[Spot] = frozenset()
        pure: pathlib.PurePath | None = None
        by_depth: dict[Depth, int] = Field(default_factory=dict)
        hidden: float = Field(1.0, exclude=True)
        anything: Any = None


_A, _B = {"words": ["a"]}, {"words": ["b"]}


def everything(**options):
    return Everything(build_options(Everything, options))


@pytest.mark.parametrize(
    ("options", "canonical_options", "label"),
    [
        ({"words": ["b", "a", "c"]}, {"words": ["a", "b", "c"]}, "words=('a', 'b', 'c')"),
        ({"numbers": {2.5, -0.0}}, {"numbers": [0.0, 2.5]}, "numbers=(0.0, 2.5)"),
        ({"table": {"y": [2, 1], "x": [3]}}, {"table": {"x": [3], "y": [1, 2]}}, None),
        ({"pairs": [["b", "a"]]}, {"pairs": [["a", "b"]]}, "pairs=(('a', 'b'),)"),
        ({"depth": "upper"}, {"depth": "upper"}, "depth='upper'"),
        ({"rate": 2}, {"rate": 2.0}, "rate=2.0"),
        ({"path": "a/b"}, {"path": "a/b"}, "path='a/b'"),
        ({"nested": {"words": ["b", "a"]}}, {"nested": {"words": ["a", "b"]}}, None),
        ({"anything": {(2, 1), (1, 2)}}, {"anything": [[1, 2], [2, 1]]}, None),
        ({"anything": {3: {"b", "a"}}}, {"anything": {"3": ["a", "b"]}}, None),
        ({"models": [{"words": ["b"]}, {"words": ["a"]}]}, {"models": [_A, _B]}, None),
        ({"points": [{"x": 2}, {"x": 1}]}, {"points": [{"x": 1, "y": 0}, {"x": 2, "y": 0}]}, None),
        ({"pure": "a/b"}, {"pure": "a/b"}, "pure='a/b'"),
        ({"by_depth": {"upper": 2}}, {"by_depth": {"upper": 2}}, None),
        ({"hidden": 0.5}, {"hidden": 0.5}, "hidden=0.5"),
    ],
)
def test_options_have_one_form_and_their_label_can_be_written(options, canonical_options, label):
    made = everything(**options)
    found = made.canonical_options()
    assert {name: found[name] for name in canonical_options} == canonical_options
    if label:
        assert made.label == f"everything({label})"
    # A label, and a record's options, give the component again.
    for again in (parse_reference(made.label), [("everything", found)]):
        assert everything(**again[0][1]).canonical_options() == found


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "a object"),
        (1e999, "inf is not finite"),
        ({"a": [float("nan")]}, "nan is not finite"),
        ({1: 2, "1": 3}, "two of its keys have one form"),
    ],
)
def test_an_option_that_json_does_not_have_is_named(value, why):
    made = everything(anything=value)
    with pytest.raises(PluginError, match=r"strategy 'everything': the option 'anything'.*") as e:
        made.canonical_options()
    assert why in str(e.value)


# It imports no more than it needs: torch would take most of its time.
HASHED = """
from typing import Any
from ftbench.component import Component, Options, build_options

class Everything(Component):
    kind, name = "strategy", "everything"
    class Options(Options):
        words: frozenset[str] = frozenset()
        anything: Any = None

options = {"words": ["delta", "alpha", "echo", "bravo"], "anything": {"x", "y", "z"}}
made = Everything(build_options(Everything, options))
print(made.label, made.canonical_options())
"""


def test_the_form_is_the_same_in_every_process():
    assert len(printed_over_hash_seeds(HASHED)) == 1


def test_a_component_takes_its_options_from_the_brackets_of_its_base():
    class Bracketed(Component[PartialOptions]):
        name = "bracketed"

    class Heir(Bracketed):
        name = "heir"

    class Own(Bracketed):
        name = "own"

        class Options(PartialOptions):
            more: int = 1

    assert Bracketed.Options is Heir.Options is PartialOptions
    assert Bracketed(PartialOptions(stages=2)).options.stages == 2
    assert Own().options.more == 1


def test_a_type_variable_in_the_brackets_is_no_options_model():
    class Family(Component[OptionsT]):
        name = "family"

    class Member(Family[PartialOptions]):
        name = "member"

    assert Family.Options is Options
    assert Member.Options is PartialOptions


def test_brackets_that_hold_no_options_are_refused():
    with pytest.raises(PluginError, match=r"Wrong: <class 'int'> in brackets is no subclass"):

        class Wrong(Component[int]):
            name = "wrong"
