"""``csv``: images that a table lists, with classes, several labels, or numbers to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from ftbench.component import Place
from ftbench.errors import SpecError, did_you_mean
from ftbench.images import FileImages
from ftbench.tasks.image_task import ImageTask
from ftbench.tasks.listing import ImageTaskOptions, Kind, Listing, absolute

if TYPE_CHECKING:
    import pandas as pd

_SIDES = {
    **dict.fromkeys(("train", "training", "pool", "val", "valid", "validation", "dev"), "pool"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FEW = 5  # lines that a message names


class CsvOptions(ImageTaskOptions):
    """Options of ``csv``."""

    image: str = Field("image", description="the column of paths, from root")
    label: str | tuple[str, ...] = Field(
        "label", description="the column of labels; several in a tuple: ('x', 'y')"
    )
    target: Literal["auto", "class", "labels", "number"] = Field(
        "auto",
        description="class: one of several; labels: any of several, in columns of 0 and 1 or "
        "separated in one; number: regression; auto: by what the columns hold",
    )
    separator: str = Field("", description="between the labels of a row, say ';'")
    group: str = Field("", description="the column of groups that stay on one side, say patient")
    split: str = Field("", description="the column that says train, val or test")
    root: Place = Field("", description="folder of the images; empty: the table's own")

    @field_validator("root")
    @classmethod
    def _absolute_root(cls, value: str) -> str:
        return absolute(value)


class Csv(ImageTask[CsvOptions]):
    """Images listed in a CSV file, with a column of paths and one or more of labels."""

    name = "csv"
    version = "1"

    def listing(self) -> Listing:
        """Return the rows of the table; SpecError names column and lines that cannot be used."""
        options = self.options
        table = _read(options.path)
        wanted = [options.image, *self._labels, *filter(None, (options.group, options.split))]
        for column in wanted:
            _require_column(options.path, table, column)
        root = Path(options.root or Path(options.path).parent)
        paths = [root / text for text in table[options.image]]
        _refuse_lines(
            options.path,
            _outside(root, paths),
            f"lie outside {root}",
            "set root= to a folder above them",
        )
        _refuse_lines(
            options.path,
            table[options.image] == "",
            f"have no path in '{options.image}'",
            "fill them in",
        )
        kind, names, values = self._values(table)
        sides = None
        if options.split:
            if options.test == "per-seed":
                raise SpecError(
                    f"{options.path}: split='{options.split}' says the test rows, and "
                    "test='per-seed' draws them anew; leave one out"
                )
            sides = self._given_sides(table)
        return Listing(
            source=FileImages(paths, root),
            kind=kind,
            names=names,
            values=values,
            sides=sides,
            groups=self._groups(table),
            watched=(Path(options.path),),
        )

    @property
    def _labels(self) -> tuple[str, ...]:
        label = self.options.label
        return (label,) if isinstance(label, str) else tuple(label)

    def _values(self, table: pd.DataFrame) -> tuple[Kind, tuple[str, ...], npt.NDArray[np.generic]]:
        path, columns = self.options.path, self._labels
        kind = self._kind(table)
        if kind == "labels" and (self.options.separator or len(columns) == 1):
            names, values = _separated(table[columns[0]], self.options.separator or ";")
            return "labels", names, values
        for column in columns:
            # What pandas and spreadsheets write for a value that is not there.
            empty = (table[column] == "") | (table[column].str.casefold() == "nan")
            _refuse_lines(
                path, empty, f"have no value in '{column}'", "fill them in or leave them out"
            )
        if kind == "classes":
            return "classes", (), table[columns[0]].to_numpy(dtype=object)
        numbers = np.stack([_numbers(path, table, column) for column in columns], axis=1)
        if kind == "labels":
            odd = ~np.isin(numbers, (0.0, 1.0)).all(axis=1)
            _refuse_lines(path, odd, "have a label that is neither 0 nor 1", "expected one of both")
            return "labels", columns, numbers.astype(np.int8)
        return "numbers", columns, numbers.astype(np.float32)

    def _kind(self, table: pd.DataFrame) -> Kind:
        asked = self.options.target
        if asked != "auto":
            kinds: dict[str, Kind] = {"class": "classes", "labels": "labels", "number": "numbers"}
            if asked == "class" and len(self._labels) > 1:
                raise SpecError(
                    f"{self.options.path}: a class is one column, and label= names "
                    f"{len(self._labels)}; target='labels' or 'number' takes several"
                )
            return kinds[asked]
        if self.options.separator:
            return "labels"
        held = [set(table[column]) for column in self._labels]
        if len(held) > 1:
            return (
                "labels"
                if all(values <= {"0", "1", "0.0", "1.0"} for values in held)
                else "numbers"
            )
        # Whole numbers are class ids in most tables; a fraction says that they are measured.
        return "numbers" if _are_fractions(held[0]) else "classes"

    def _given_sides(self, table: pd.DataFrame) -> npt.NDArray[np.object_]:
        column = self.options.split
        said = table[column].str.casefold()
        known = said.isin(_SIDES.keys())
        _refuse_lines(
            self.options.path,
            ~known,
            f"say neither train, val nor test in '{column}'",
            "correct them",
        )
        sides: npt.NDArray[np.object_] = said.map(_SIDES).to_numpy(dtype=object)
        if "test" not in sides or "pool" not in sides:
            missing = "test" if "test" not in sides else "train"
            raise SpecError(f"{self.options.path}: no row says {missing} in '{column}'")
        return sides

    def _groups(self, table: pd.DataFrame) -> npt.NDArray[np.object_] | None:
        column = self.options.group
        if not column:
            return None
        groups = table[column].to_numpy(dtype=object)
        empty = groups == ""
        # A row without a group is one of its own.
        groups[empty] = [f"\0{line}" for line in np.flatnonzero(empty)]
        return groups


def _read(path: str) -> pd.DataFrame:
    """Return the table as stripped text; SpecError where it cannot be read as one."""
    import csv

    import pandas as pd

    if not path:
        raise SpecError("csv needs a file: csv(path='FILE', image='path', label='label')")
    try:
        # utf-8-sig: a byte-order mark is no part of the first column's name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file, skipinitialspace=True), [])]
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True
        )
    except OSError as error:
        raise SpecError(f"csv(path=…): cannot read {path}: {error.strerror}") from error
    except (ValueError, UnicodeDecodeError) as error:  # pandas' ParserError is a ValueError
        raise SpecError(
            f"csv(path=…): {path} is no CSV table in UTF-8: {str(error).strip()}"
        ) from error
    if not len(table):
        raise SpecError(f"csv(path=…): {path} has no row below its header")
    twice = [name for name in header if header.count(name) > 1]
    if twice:  # pandas would number them
        raise SpecError(
            f"csv(path=…): {path} has {header.count(twice[0])} columns '{twice[0]}'; rename them"
        )
    table.columns = header
    for column in table.columns:
        table[column] = table[column].str.strip()
    return table


def _require_column(path: str, table: pd.DataFrame, column: str) -> None:
    if column in table.columns:
        return
    known = ", ".join(map(repr, table.columns))
    raise SpecError(
        f"{path} has no column '{column}'{did_you_mean(column, table.columns)} (it has {known})"
    )


def _refuse_lines(path: str, wrong: object, problem: str, advice: str) -> None:
    """Raise SpecError that names the first lines where ``wrong``."""
    lines = np.flatnonzero(np.asarray(wrong, dtype=bool)) + 2  # the header is line 1
    if not len(lines):
        return
    some = ", ".join(map(str, lines[:_FEW])) + (", …" if len(lines) > _FEW else "")
    raise SpecError(f"{path}: {len(lines)} rows {problem} (line {some}); {advice}")


def _outside(root: Path, paths: Sequence[Path]) -> list[bool]:
    import os

    base = os.path.abspath(root)
    return [os.path.commonpath([base, os.path.abspath(path)]) != base for path in paths]


def _numbers(path: str, table: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    import pandas as pd

    values: npt.NDArray[np.float64] = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
    _refuse_lines(
        path,
        ~np.isfinite(values),
        f"have no finite number in '{column}'",
        "correct them or leave them out",
    )
    return values


def _are_fractions(values: set[str]) -> bool:
    try:
        numbers = np.array([float(value) for value in values if value])
    except ValueError:
        return False
    return bool(len(numbers)) and bool(np.any(numbers != np.round(numbers)))


def _separated(
    column: pd.Series[str], separator: str
) -> tuple[tuple[str, ...], npt.NDArray[np.int8]]:
    """Return the names of all labels, sorted, and a table of 0 and 1: a row may have none."""
    rows = [[part.strip() for part in text.split(separator) if part.strip()] for text in column]
    names = tuple(sorted({name for row in rows for name in row}))
    place = {name: index for index, name in enumerate(names)}
    values = np.zeros((len(rows), len(names)), dtype=np.int8)
    for line, row in enumerate(rows):
        values[line, [place[name] for name in row]] = 1
    return names, values
