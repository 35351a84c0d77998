"""The columns of the results, each said once: frame, tables, plugins' checks and docs derive them.

``python -m ftbench.columns docs/results.md`` writes the table of them into that page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftbench.metric import Metric

Section = Literal[
    "run",
    "scores",
    "costs",
    "device",
    "protocol",
    "recipe",
    "identity",
    "components",
    "environment",
    "attempt",
]
"""Where in a record a column comes from; the frame has the sections in this order."""


@dataclass(frozen=True)
class Column:
    """One column: where it comes from, how it reads, and what it means.

    With a ``title`` it is a metric that tables can show. ``unit`` says ``%`` for a share in [0, 1]
    that is shown times 100, and is empty for what is no number. ``rows`` names the column that
    counts the rows of a share.
    """

    name: str
    section: Section
    title: str = ""
    unit: str = ""
    higher_is_better: bool | None = None
    device_bound: bool = False  # measured on a device, so never compared between two
    meaning: str = ""
    rows: str = ""
    scored_on: str = ""  # the column that counts the rows of what is no share of them

    @property
    def is_number(self) -> bool:
        """Whether values that are no numbers are missing ones."""
        return bool(self.unit)

    def metric(self) -> Metric:
        """Return how tables show the column."""
        is_score = self.section != "costs" and not self.device_bound
        return Metric(
            self.name,
            self.title or self.name,
            higher_is_better=self.higher_is_better,
            percent=self.unit == "%",
            rows=self.rows,
            # Empty for what is scored on the seed's own rows: they change with it.
            scored_on=(self.scored_on or self.rows) if is_score else "test_rows",
            cost="" if is_score else "measured" if self.device_bound else "counted",
        )


def _same(meaning: str, section: Section, *names: str, unit: str = "") -> Iterable[Column]:
    """Return columns of one meaning."""
    return (Column(name, section, unit=unit, meaning=meaning) for name in names)


def _cost(name: str, title: str, unit: str, meaning: str, section: Section = "costs") -> Column:
    return Column(name, section, title, unit, False, device_bound=True, meaning=meaning)


def _loss(name: str, title: str, meaning: str) -> Column:
    return Column(name, "protocol", title, "nats", higher_is_better=False, meaning=meaning)


_KEPT = (
    "accuracy on the held-out source task with its own head, before and after fine-tuning; missing "
    "for `scratch`"
)
_DRIFT = (
    "on the target's test inputs, with the source head before and after fine-tuning: mean "
    "KL(before ‖ after), and the share of rows with the same first class. Where the source's own "
    "data is not there; missing for `scratch`"
)
_STEPS = "rows a step; steps taken, and planned before early stopping"
_SIZE = (
    "scalars that trained at any time, at a rate above 0; scalars in backbone and head. A shared "
    "parameter counts once, with the part that owns it"
)
_OF_STRATEGY = (
    "options as JSON, defaults resolved; owner is the distribution alone; the version is the "
    "strategy's own, or else its distribution's"
)
_VERSIONS = "versions it ran with"
_MACHINE = "CPU model; operating system; commit of ftbench's checkout"

COLUMNS: tuple[Column, ...] = (
    *_same(
        "names, with the options that differ from their defaults",
        "run",
        *("task", "backbone", "strategy"),
    ),
    Column(
        "size",
        "run",
        unit="rows",
        meaning="labels the run saw in all, those held back for validation included",
    ),
    Column(
        "seed",
        "run",
        unit="count",
        meaning="draws subset, head, batches and mixing, the same for every strategy",
    ),
    Column(
        "status",
        "run",
        meaning="`ok`, `failed`, `diverged`, `out-of-memory`, `timeout` or `crashed`",
    ),
    Column("message", "run", meaning="why, where the status is not `ok`"),
    Column(
        "source_accuracy_before",
        "scores",
        "source accuracy before (%)",
        "%",
        meaning=_KEPT,
        rows="source_rows",
    ),
    Column(
        "source_accuracy_after",
        "scores",
        "source accuracy kept (%)",
        "%",
        higher_is_better=True,
        meaning=_KEPT,
        rows="source_rows",
    ),
    Column(
        "drift_kl",
        "scores",
        "drift of the source head (nats)",
        "nats",
        higher_is_better=False,
        meaning=_DRIFT,
        scored_on="drift_rows",
    ),
    Column(
        "drift_agreement",
        "scores",
        "source answers kept (%)",
        "%",
        higher_is_better=True,
        meaning=_DRIFT,
        rows="drift_rows",
    ),
    _cost(
        "train_seconds",
        "training (s)",
        "s",
        "preparation (a Fisher, say), training and finishing; wall time, as if alone",
    ),
    _cost(
        "train_cpu_seconds",
        "training (CPU s)",
        "s",
        "processor time of the same stretch, added up over all threads of the process; what waits "
        "for a GPU or for another program costs none",
    ),
    _cost(
        "saved_seconds",
        "saved (s)",
        "s",
        "of training, what was there already: computed by an earlier run that shares it",
    ),
    _cost(
        "step_seconds",
        "one step (s)",
        "s",
        "training loop divided by its steps, validations included",
    ),
    _cost(
        "predict_row_seconds",
        "prediction (s a row)",
        "s",
        "predicting the test set divided by its rows, outcomes included",
    ),
    _cost(
        "peak_memory_bytes",
        "peak memory (bytes)",
        "bytes",
        "of the same stretch. CUDA: most bytes allocated at once; Linux CPU: growth of the peak "
        "resident memory, without what the harness loaded and copied before",
    ),
    *_same(_SIZE, "costs", "trainable_parameters", "total_parameters", unit="count"),
    *_same("product name; `cpu` or `cuda`", "device", "device", "device_type"),
    Column(
        "subset_fingerprint",
        "protocol",
        meaning="SHA-256 of the sorted row ids of the label budget",
    ),
    Column(
        "test_fingerprint",
        "protocol",
        meaning="SHA-256 of the sorted row ids of the test set, where each seed may draw its own; "
        "empty for tasks whose rows have no ids",
    ),
    Column(
        "subset_overlap",
        "protocol",
        unit="share",
        meaning="share of its rows that one seed's subset has in common with another's, on "
        "average over seeds",
    ),
    Column(
        "pool_rows",
        "protocol",
        unit="rows",
        meaning="labelled rows that the budget was drawn from",
    ),
    *_same("how the budget was split", "protocol", "training_rows", "validation_rows", unit="rows"),
    *_same(
        "rows of the test set and of the held-out source task; 0 where no source was scored",
        "protocol",
        *("test_rows", "source_rows"),
        unit="rows",
    ),
    Column(
        "drift_rows",
        "protocol",
        unit="rows",
        meaning="test inputs on which drift was measured, up to 1,000; 0 where it was not",
    ),
    Column(
        "left_out_rows",
        "protocol",
        unit="rows",
        meaning="files or rows of the data that could not be used; `ftbench show task` names them",
    ),
    Column(
        "remark",
        "protocol",
        meaning="what the strategy says of the run, such as which data a Fisher came from",
    ),
    *_same(_STEPS, "protocol", "batch_size", "steps", "planned_steps", unit="count"),
    Column(
        "batch_parts",
        "protocol",
        unit="count",
        meaning="parts of a batch whose gradients were added up; more than the recipe's "
        "accumulation where a GPU had no memory for that, and the run was tried again",
    ),
    Column(
        "skipped_steps",
        "protocol",
        unit="count",
        meaning="steps of those taken that changed nothing, since gradients overflowed in float16",
    ),
    Column(
        "best_step",
        "protocol",
        unit="count",
        meaning="early stopping: the step whose weights were kept",
    ),
    _loss("validation_loss", "validation loss", "early stopping: the loss of the kept weights"),
    _loss("final_loss", "last training loss", "of the last training batch, without the penalty"),
    Column(
        "norm_statistics",
        "protocol",
        meaning="what happened, whatever the recipe asked: `update` where a buffer of the "
        "backbone, or a tensor that a module has as an attribute, moved in training; `frozen` "
        "where none did",
    ),
    *_same(
        "forward and backward passes over a batch that a step took on average, repeats and a "
        "strategy's extra ones included; what a strategy computes besides shows in seconds alone",
        "protocol",
        *("forward_passes", "backward_passes"),
        unit="count",
    ),
    Column(
        "outcomes_fingerprint",
        "protocol",
        meaning="SHA-256 of what `outcomes/` holds of the run, row by row",
    ),
    Column(
        "shared_device",
        "protocol",
        meaning="whether other runs used the device at the same time",
    ),
    Column("recipe_*", "recipe", meaning="every setting of the recipe"),
    Column(
        "harness",
        "identity",
        meaning="version of the training loop, the draws and the scores",
    ),
    *_same(
        "CPU threads a run; deterministic GPU algorithms",
        "identity",
        *("threads", "deterministic"),
    ),
    *_same(_OF_STRATEGY, "identity", "strategy_name", "strategy_options"),
    *_same(_OF_STRATEGY, "components", "strategy_owner", "strategy_version"),
    Column(
        "strategy_source",
        "components",
        meaning="SHA-256 of the syntax of its class, of bases outside ftbench and of what they "
        "refer to in their package; empty for built-ins and where no source is to be had",
    ),
    *_same(
        "the same of the backbone; SHA-256 of its weights, preprocessing included",
        "components",
        *(f"backbone_{of}" for of in ("owner", "version", "fingerprint", "source")),
    ),
    *_same(
        "the same of the task; SHA-256 of its data",
        "components",
        *(f"task_{of}" for of in ("owner", "version", "fingerprint", "source")),
    ),
    *_same(
        _VERSIONS,
        "environment",
        *("env_ftbench", "env_torch", "env_numpy", "env_scipy", "env_scikit_learn"),
        *("env_pandas", "env_pillow", "env_python"),
    ),
    Column(
        "env_cuda",
        "environment",
        meaning="CUDA and cuDNN versions; empty where torch saw no GPU",
    ),
    *_same(_MACHINE, "environment", "env_processor", "env_platform", "env_commit"),
    Column(
        "env_operators",
        "environment",
        meaning="what mixed images and added penalties on the run's device: `compiled` with the "
        "instruction set or `cuda`, or `reference` (plain torch); `ftbench doctor` says why",
    ),
    Column(
        "env_strategy_owner",
        "environment",
        meaning="the strategy's distribution with its version",
    ),
    Column("started_at", "attempt", meaning="when the attempt began, ISO 8601 UTC"),
    _cost(
        "run_seconds",
        "whole run (s)",
        "s",
        "wall time of the whole attempt, evaluation included",
        "attempt",
    ),
    Column(
        "condition",
        "attempt",
        meaning="12 hex digits that the runs of one table share: a hash of task, backbone, recipe, "
        "threads, deterministic and harness",
    ),
    Column(
        "key",
        "attempt",
        meaning="SHA-256 of everything that can change the run's scores; the run's identity",
    ),
)

_BY_NAME = {column.name: column for column in COLUMNS}
_PREFIXES = ("recipe_", "env_", "_")


def of(section: Section) -> list[Column]:
    """Return the columns of a section, in order."""
    return [column for column in COLUMNS if column.section == section]


def metrics() -> dict[str, Metric]:
    """Return the metrics that every run may carry besides its task's own scores, by name."""
    return {column.name: column.metric() for column in COLUMNS if column.title}


def metric(name: str) -> Metric:
    """Return the metric that the column of that name is."""
    return _BY_NAME[name].metric()


def is_declared(name: str) -> bool:
    """Return whether a column of that name is in the list, or is one of the recipe's settings."""
    return name in _BY_NAME or name.startswith("recipe_")


def is_taken(name: str) -> bool:
    """Return whether the results have a column of that name, so that no score of a task may."""
    return name in _BY_NAME or name == "metrics" or name.startswith(_PREFIXES)


def markdown() -> str:
    """Return the columns as a Markdown table; those of one meaning share a line."""
    lines: dict[str, list[str]] = {}
    for column in COLUMNS:
        lines.setdefault(column.meaning, []).append(f"`{column.name}`")
    rows = [f"| {', '.join(names)} | {meaning} |" for meaning, names in lines.items()]
    return "\n".join(["| column | meaning |", "|---|---|", *rows])


_MARKED = re.compile(r"(<!-- columns -->\n).*?(\n<!-- /columns -->)", re.DOTALL)


def with_table(page: str) -> str:
    """Return a page with the table of columns between its two marks; ValueError without them."""
    if not _MARKED.search(page):
        raise ValueError("the page has no <!-- columns --> and <!-- /columns -->")
    return _MARKED.sub(lambda marks: marks[1] + markdown() + marks[2], page)


def main(arguments: Sequence[str]) -> None:
    """Write the table into the pages that are named."""
    for name in arguments:
        path = Path(name)
        path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
