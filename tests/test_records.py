import dataclasses
import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftbench.recipe import Recipe
from ftbench.records import (
    STATUSES,
    ComponentId,
    RunRecord,
    RunSpec,
    flatten,
    identity_key,
    labels_of,
    utc_now,
)
from tests.support import run_record

SPEC = RunSpec(
    task=ComponentId("digits", "1", {"side": 8}, "d" * 64, label="digits"),
    backbone=ComponentId("glyphnet", "2", {}, "w" * 64, label="glyphnet"),
    strategy=ComponentId("l2sp", "1", {"alpha": 0.1, "beta": 0.01}, label="l2sp(alpha=0.1)"),
    recipe=Recipe().settings(),
    parts={"schedule": ComponentId("cosine", "1", {"warmup": 0.1}, label="cosine(warmup=0.1)")},
    size=50,
    seed=3,
)
RECORD = RunRecord(
    key=SPEC.key,
    status="ok",
    message="",
    identity=SPEC.identity(),
    labels=labels_of(SPEC),
    scores={"accuracy": 0.5},
    costs={"train_seconds": 1.5, "peak_memory_bytes": None},
    started_at="2025-01-01T00:00:00.000+00:00",
    run_seconds=2.0,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def other(value):
    """Return a different value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, dict):
        return {**value, "new": 1}
    return "other" if value is None else value + "x"


COMPONENT_FIELDS = ["name", "version", "options", "fingerprint", "owner", "source"]
RUN_FIELDS = ["size", "seed", "threads", "deterministic"]


def test_every_field_of_a_run_is_among_those_tested_here():
    parts = ["task", "backbone", "strategy", "recipe"]
    assert [f.name for f in dataclasses.fields(RunSpec)] == [*parts, *RUN_FIELDS, "parts"]
    assert {f.name for f in dataclasses.fields(ComponentId)} == {
        *COMPONENT_FIELDS,
        "label",
        "places",
    }


@pytest.mark.parametrize("part", ["task", "backbone", "strategy"])
@pytest.mark.parametrize("field", COMPONENT_FIELDS)
def test_the_key_changes_with_every_field_of_a_component(part, field):
    component = getattr(SPEC, part)
    changed = dataclasses.replace(component, **{field: other(getattr(component, field))})
    assert dataclasses.replace(SPEC, **{part: changed}).key != SPEC.key


@pytest.mark.parametrize("field", COMPONENT_FIELDS)
def test_the_key_changes_with_every_field_of_a_part_of_the_recipe(field):
    part = SPEC.parts["schedule"]
    changed = dataclasses.replace(part, **{field: other(getattr(part, field))})
    assert dataclasses.replace(SPEC, parts={"schedule": changed}).key != SPEC.key


@pytest.mark.parametrize("option", ["alpha", "beta"])
def test_the_key_changes_with_every_option(option):
    options = {**SPEC.strategy.options, option: 0.5}
    changed = dataclasses.replace(SPEC.strategy, options=options)
    assert dataclasses.replace(SPEC, strategy=changed).key != SPEC.key


@pytest.mark.parametrize("setting", list(SPEC.recipe))
def test_the_key_changes_with_every_setting_of_the_recipe(setting):
    recipe = {**SPEC.recipe, setting: other(SPEC.recipe[setting])}
    assert dataclasses.replace(SPEC, recipe=recipe).key != SPEC.key


@pytest.mark.parametrize("field", RUN_FIELDS)
def test_the_key_changes_with_every_field_of_the_run(field):
    changed = dataclasses.replace(SPEC, **{field: other(getattr(SPEC, field))})
    assert changed.key != SPEC.key


def test_swapping_two_components_changes_the_key():
    assert dataclasses.replace(SPEC, task=SPEC.backbone, backbone=SPEC.task).key != SPEC.key


def test_the_key_ignores_display_names_and_the_order_of_options():
    options = dict(reversed(SPEC.strategy.options.items()))
    strategy = dataclasses.replace(SPEC.strategy, label="pull", options=options)
    recipe = dict(reversed(SPEC.recipe.items()))
    assert dataclasses.replace(SPEC, strategy=strategy, recipe=recipe).key == SPEC.key


def test_the_key_is_sha256_of_canonical_json():
    text = (
        '{"backbone":{"fingerprint":"' + "w" * 64 + '","name":"glyphnet","options":{},'
        '"owner":"","version":"2"},"deterministic":false,"harness":"1","recipe":{"steps":5},'
        '"seed":3,"size":50,"strategy":{"fingerprint":"","name":"l2sp","options":{"alpha":0.1,'
        '"beta":0.01},"owner":"","version":"1"},"task":{"fingerprint":"' + "d" * 64 + '",'
        '"name":"digits","options":{"side":8},"owner":"","version":"1"},"threads":1}'
    )
    spec = dataclasses.replace(SPEC, recipe={"steps": 5}, parts={})
    assert spec.key == hashlib.sha256(text.encode()).hexdigest()


def test_an_identity_read_back_from_json_has_the_same_key():
    assert identity_key(json.loads(json.dumps(SPEC.identity()))) == SPEC.key


def test_an_identity_that_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        identity_key({"recipe": {"learning_rate": float("nan")}})


@pytest.mark.parametrize("record", [SPEC, SPEC.task, RECORD])
def test_records_cannot_be_changed(record):
    name = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"assign to field '{name}'"):
        setattr(record, name, "x")


def test_a_replaced_spec_does_not_keep_the_old_key():
    assert SPEC.key == SPEC.key
    moved = dataclasses.replace(SPEC, seed=4)
    assert moved.key == identity_key(moved.identity()) != SPEC.key


def test_a_run_is_described_by_strategy_size_and_seed():
    assert SPEC.describe() == "l2sp(alpha=0.1) at size 50, seed 3"


def test_labels_are_those_that_tables_show():
    expected = {"task": "digits", "backbone": "glyphnet", "strategy": "l2sp(alpha=0.1)"}
    expected["schedule"] = "cosine(warmup=0.1)"
    assert labels_of(SPEC) == expected


def test_a_record_reads_back_equal_from_its_line():
    line = RECORD.to_json()
    assert "\n" not in line
    assert RunRecord.from_json(json.loads(line)) == RECORD
    assert json.loads(line)["schema"] == 1


@given(st.sampled_from(STATUSES), st.text(), st.dictionaries(st.text(), JSON, max_size=3))
def test_any_message_and_protocol_read_back_equal(status, message, protocol):
    record = dataclasses.replace(RECORD, status=status, message=message, protocol=protocol)
    line = record.to_json()
    assert len(line.splitlines()) == 1
    assert RunRecord.from_json(json.loads(line)) == record


def test_fields_of_a_later_version_are_ignored():
    values = {**json.loads(RECORD.to_json()), "colour": "red"}
    assert RunRecord.from_json(values) == RECORD


def test_a_line_that_lacks_fields_is_refused():
    values = json.loads(RECORD.to_json())
    del values["key"]
    with pytest.raises(TypeError, match=r"^key is missing$"):
        RunRecord.from_json(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(RECORD, scores={"accuracy": value}).to_json()


def test_flatten_joins_nested_names_with_dots():
    nested = {"a": 1, "b": {"c": 2, "d": {"e": [3]}}, "f": {}}
    assert flatten(nested) == {"a": 1, "b.c": 2, "b.d.e": [3]}


def test_times_are_utc_with_milliseconds_and_sort_as_text():
    first, second = utc_now(), utc_now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first)
    assert first <= second


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("status", "splendid", "status is 'splendid', not one of ok, failed"),
        ("key", 3, "key is 3, not text"),
        ("message", None, "message is missing, not text"),
        ("run_seconds", "long", "run_seconds is 'long', not a number"),
        ("started_at", 5, "started_at is 5, not text"),
        ("labels", {"task": "digits"}, "labels.backbone is missing, not text"),
        ("identity", {"strategy": "x"}, "identity.size is missing, not a whole number"),
        ("identity.size", True, "identity.size is True, not a whole number"),
        ("identity.seed", 2**64, "identity.seed is 18446744073709551616, not a whole number"),
        ("identity.strategy", {"name": "x"}, "identity.strategy.(.*) is missing"),
        ("identity.strategy.name", 4, "identity.strategy.name is 4, not text"),
        ("identity.recipe", [], r"identity.recipe is \[\], not a mapping"),
        ("scores", [1], r"scores is \[1\], not a mapping"),
        ("scores", {"accuracy": "high"}, "scores.accuracy is 'high', not a number"),
        ("scores", {"accuracy": None}, "scores.accuracy is missing, not a number"),
        ("costs", None, "costs is missing, not a mapping"),
        ("costs", {"train_seconds": "fast"}, "costs.train_seconds is 'fast', not a number"),
        ("metrics", {}, "metrics is no list of mappings"),
        ("metrics", ["accuracy"], "metrics is no list of mappings"),
    ],
)
def test_a_record_that_no_report_could_read_is_refused_by_its_field(name, value, message):
    values = json.loads(run_record().to_json())
    assert RunRecord.from_json(values) == run_record()
    *path, last = name.split(".")
    inner = values
    for part in path:
        inner = inner[part]
    inner[last] = value
    with pytest.raises(TypeError, match=message):
        RunRecord.from_json(values)


def test_a_component_without_source_has_the_key_that_it_had_before_there_was_one():
    assert "source" not in ComponentId("full", "1", {}).identity()
    assert ComponentId("mine", "1", {}, source="abc").identity()["source"] == "abc"
