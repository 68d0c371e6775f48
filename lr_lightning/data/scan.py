"""The first sweep over a table: the kind, notation and levels of its columns, its labels, and its rows in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from logging import INFO, WARNING
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from lr_lightning.data.choices import Choices, listed
from lr_lightning.data.columns import (
    coded,
    holds_only_0_and_1,
    is_single,
    missing_rows,
    plain,
    refuse_infinite_level,
)
from lr_lightning.data.mistakes import NotMergedError, mistakes_in_all
from lr_lightning.data.notation import (
    COMMA,
    LARGEST_EXACT_INTEGER,
    NOTATION_OF_MARK,
    Evidence,
    doubt_in_words,
    has_short_year,
    in_words,
    is_integer,
    kind_of_text,
    looks_like,
    read,
    unit_of,
)
from lr_lightning.data.readers.base import Source, TypesChanged, kind_of, shown
from lr_lightning.data.roles import ROLES, SUCCESSES, TRIALS, WEIGHT
from lr_lightning.data.rows_in_use import (
    RoleColumns,
    Scan,
    columns_of,
    most_missing,
    refuse_missing,
    refuse_without_target,
    rows_in_use,
    scan_of,
    usable_rows,
)
from lr_lightning.data.schema import Column, Level, TableSchema
from lr_lightning.data.target import MOST_VALUES, Labels, choose_labels, target_values
from lr_lightning.errors import InputError
from lr_lightning.model.processes import ALONE, Processes

MOST_LEVELS = 1_000_000
TELLING_VALUES = 1000  # so many different texts tell whether a column holds numbers, dates, times or levels
FEWEST_ROWS_OF_IDS = 20
ORDINALS = ("st", "nd", "rd", "th", "+", "-")  # what follows a number that is a rank or an open range


def scan_table(source: Source, choices: Choices, processes: Processes = ALONE) -> Scan:
    """Scan a table that no fit has seen: its schema, its rows in use, their labels, weights and the like, in one sweep.

    Args:
        source: the table, or this process's part of it.
        choices: the options about its columns.
        processes: that have the table; the schema and the notes are of the whole.

    Raises:
        InputError: if a named column does not exist, a column cannot be a feature, the target has not two values, a
            column with another role holds what it must not, or a value is missing under `missing="error"`.
        NotMergedError: if one of several processes has met a mistake, or what they have found does not tell what one
            would have found in the whole table.
    """
    features = choices.feature_columns(source)
    levels: set[str] = set()
    if processes.count > 1:
        return _scan_in_parts(source, choices, features, processes)
    while True:
        scanner = _Scanner(source, choices, features, levels)
        try:
            for batch in source.batches(scanner.columns):
                scanner.add(batch)
            return scanner.result()
        except TypesChanged:
            continue
        except _AreCodes as found:
            levels.add(found.name)


def _scan_in_parts(source: Source, choices: Choices, features: list[str], processes: Processes) -> Scan:
    scanner = _Scanner(source, choices, features, set())
    with mistakes_in_all(processes):
        for batch in source.batches(scanner.columns):
            scanner.add(batch)
    scanner.merge(processes.objects(scanner.findings()), processes)
    with mistakes_in_all(processes):  # which all of them meet now
        return scanner.result()


class _AreCodes(NotMergedError):  # noqa: N818 (not an error: a request)
    """A column that was taken for numbers holds codes, such as 007; its levels have to be gathered in another sweep."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name


@dataclass
class _Scanner:
    source: Source
    choices: Choices
    features: list[str]
    of_levels: set[str]  # columns of text of which it is known that they are categories
    n_rows: int = 0
    single: bool = True
    kinds: dict[str, str] = field(default_factory=dict)
    levels: dict[str, dict[Level, int]] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)  # of columns of text: the first value that is not as the others
    largest: dict[str, int] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set)  # columns of numbers that are not only 0 and 1
    labels: dict[Level, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  # codes of the labels of rows that were left out
    targets: list[np.ndarray] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)
    processes: Processes = ALONE

    def __post_init__(self) -> None:
        self.columns = columns_of(self.features, str(self.choices.target), self.choices.roles)
        self.roles = RoleColumns(self.source, self.choices.roles, self.choices.target)
        self.counted = TRIALS.name in self.choices.roles  # whether the target counts successes, and has no labels

    def add(self, batch: pa.RecordBatch) -> None:
        target, start = len(self.features), self.n_rows

        def where(row: int) -> str:
            return self.source.where(start + row)

        for j, name in enumerate(self.features):
            array = batch.column(j)
            self._add_kind(name, array.type)
            self.single &= is_single(array.type)
            if self.choices.missing == "error" and self._shows_missing(array):
                refuse_missing(self.source, self.features)
            if pa.types.is_int64(array.type) or pa.types.is_uint64(array.type):
                self._add_extremes(name, array)
        kept = usable_rows(batch, target, self.choices.missing)
        refuse_without_target(kept, self.choices, where)
        for j, name in enumerate(self.features):
            if self.kinds[name] == "category":
                self._add_levels(name, batch.column(j), kept)
            elif self.kinds[name] == "number" and name not in self.measured:
                array = plain(batch.column(j))
                array = array if kept is None else array.filter(pa.array(kept))
                if not holds_only_0_and_1(array):
                    self.measured.add(name)
        if not self.counted:
            self._add_target(batch.column(target), kept)
        self.roles.add(batch, where, kept)
        if self.choices.missing != "error":
            self.kept.append(np.ones(batch.num_rows, bool) if kept is None else kept)
        self.n_rows += batch.num_rows

    @staticmethod
    def _shows_missing(array: pa.Array) -> bool:
        # A NaN in a column of numbers is found when the statistics are computed, without a test of every value here.
        looked_at = array.null_count > 0 or kind_of(array.type) == "category"
        return looked_at and missing_rows(array) is not None

    def _add_kind(self, name: str, dtype: pa.DataType) -> None:
        kind = kind_of(dtype)
        if kind is None:
            raise InputError(
                f"{self.source.name}: column {name} holds values of type {dtype}, which cannot be features; "
                "name the columns to use with --data.features"
            )
        if name in self.choices.categorical:
            if kind in ("date", "time"):
                raise InputError(f"{self.source.name}: column {name} holds dates, which --data.categorical cannot take")
            kind = "category" if kind == "number" else kind
        elif kind == "category" and (name in self.source.texts or not pa.types.is_dictionary(dtype)):
            self.texts.add(name)
        known = self.kinds.get(name, "missing")
        if known != "missing" and kind not in (known, "missing"):
            raise InputError(f"{self.source.name}: column {name} changes its type, from {known} to {kind}")
        self.kinds[name] = kind if known == "missing" else known

    def _add_extremes(self, name: str, array: pa.Array) -> None:
        extremes = compute.call_function("min_max", [array])
        low, high = extremes["min"].as_py(), extremes["max"].as_py()
        if high is not None:
            self.largest[name] = max(self.largest.get(name, 0), high, -low)

    def _add_levels(self, name: str, array: pa.Array, kept: np.ndarray | None) -> None:
        values, places = coded(array)
        refuse_infinite_level(values, places, name, self.source, self.n_rows)
        places = places[places >= 0] if kept is None else places[kept & (places >= 0)]
        counts = zip(values, np.bincount(places, minlength=len(values)).tolist(), strict=True)
        present = {value: count for value, count in counts if value is not None and count}
        if name in self.evidence:  # numbers, dates or times, of which not all values are kept
            odd = self.evidence[name].add(str(value) for value in present)
            if odd is not None:
                self._refuse_odd(name, odd, self.evidence[name])
            return
        found = self.levels.setdefault(name, {})
        for value, count in present.items():
            found[value] = found.get(value, 0) + count
        if len(found) > TELLING_VALUES and name not in self.of_levels:
            evidence = self._evidence_of(name)
            if evidence is None:
                self.of_levels.add(name)
            else:
                self.evidence[name] = evidence
        if len(found) > MOST_LEVELS:
            self._refuse_many_levels(name)

    def _evidence_of(self, name: str) -> Evidence | None:
        """The evidence that a column of text holds numbers, dates or times; None if it is a category."""
        if name in self.evidence:
            return self.evidence[name]
        if name not in self.texts or name in self.of_levels:
            return None
        evidence = Evidence()
        odd = evidence.add(str(value) for value in self.levels[name])
        if odd is not None:
            self.odd[name] = odd
        return None if odd is not None or evidence.codes else evidence

    def _refuse_many_levels(self, name: str) -> None:
        self._refuse_spoilt(name)
        raise InputError(
            f"{self.source.name}: column {name} has more than {MOST_LEVELS} levels, such as "
            f"{shown(next(iter(self.levels[name])))} (an id?); name the columns to use with --data.features"
        )

    def _refuse_ids(self, name: str) -> None:
        """Refuse a category in which more than half of the rows have a level that occurs once."""
        counts = self.levels[name]
        n_rows, once = sum(counts.values()), [value for value, count in counts.items() if count == 1]
        if n_rows >= FEWEST_ROWS_OF_IDS and 2 * len(once) > n_rows and name not in self.choices.categorical:
            raise InputError(
                f"{self.source.name}: column {name} has a level of its own in {len(once)} of {n_rows} rows, such as "
                f"{shown(once[0])} (an id?); name the columns to use with --data.features, or declare this one with "
                "--data.categorical"
            )

    def _telling(self, name: str) -> list[Level]:
        """The levels of a column that tell what it holds; to look at all of them would take tens of microseconds each.

        They are the first ones, and the one that is not written as those before it.
        """
        first = list(islice(self.levels[name], TELLING_VALUES))
        return first if self.odd.get(name) in (None, *first) else [*first, self.odd[name]]

    def _refuse_spoilt(self, name: str) -> None:
        """Refuse a column of text whose values are numbers, dates or times but for a few, or in several notations."""
        kinds = {value: kind_of_text(value) for value in self._telling(name) if isinstance(value, str)}
        counts = Counter(kind for kind in kinds.values() if kind is not None)
        if not counts or name in self.choices.categorical:
            return
        kind, n_alike = counts.most_common(1)[0]
        other = [value for value, found in kinds.items() if found != kind]
        if not other and name in self.texts:
            evidence = Evidence()
            odd = evidence.add(kinds)
            if odd is not None:
                self._refuse_odd(name, odd, evidence)
        if not other or n_alike <= len(other):
            return
        measured = kind != "number" or any(kind == found and not is_integer(value) for value, found in kinds.items())
        if n_alike > 20 or measured or n_alike > self.n_rows / 2:
            self._refuse_value(name, other[0], f"which is no {kind}, though most of its values are; correct it")
        self._note(WARNING, f"column {name} is taken as categorical because of {shown(other[0])}")

    def _refuse_odd(self, name: str, odd: str, evidence: Evidence) -> None:
        """Refuse a value that has no notation in common with the values before it."""
        if has_short_year(odd):
            self._refuse_value(name, odd, "a date whose year has two digits; write all four")
        if evidence.example is not None and kind_of_text(odd) != evidence.kind:
            what = f"which is no {evidence.kind}, though most of its values are; correct it"
            self._refuse_value(name, odd, what)
        example = shown(evidence.example)
        self._refuse_value(name, odd, f"which is written in another way than {example}; write all values in one way")

    def _refuse_value(self, name: str, value: str, what: str) -> None:
        where = self.source.place_of(name, value)
        at = f"{self.source.name}, {where}" if where else self.source.name
        hint = "or declare the column with --data.categorical"
        raise InputError(f"{at}: column {name} holds {shown(value)}, {what}, {hint}")

    def _add_target(self, array: pa.Array, kept: np.ndarray | None) -> None:
        target, array = self.choices.target, plain(array)
        if kind_of(array.type) not in ("number", "boolean", "category", "missing"):
            raise InputError(
                f"{self.source.name}: the target {target} holds values of type {array.type}; "
                "it must hold numbers, true/false or text"
            )
        values, places = target_values(array)
        for value in values:
            if value is not None:
                self.labels.setdefault(value, len(self.labels))
        if len(self.labels) > MOST_VALUES:
            choose_labels(dict.fromkeys(self.labels, 1), None, str(target), self.source.name, typed=self.source.typed)
        table = np.array([-1 if value is None else self.labels[value] for value in values] + [-1], dtype=np.int16)
        codes = table[places]
        if kept is not None:
            self.lost.update(np.unique(codes[~kept]).tolist())
            codes = codes[kept]
        for code, count in enumerate(np.bincount(codes, minlength=len(self.labels)).tolist()):
            self.counts[code] = self.counts.get(code, 0) + count
        # One byte a row where possible, because the codes of all rows are in memory at once.
        self.targets.append(codes.astype(np.uint8) if len(self.labels) < 256 else codes)

    def findings(self) -> Mapping[str, Any] | None:
        """The findings about the columns, for a `merge`; None if a column of text has too many texts to keep."""
        if self.evidence:
            return None
        kept = ("n_rows", "single", "kinds", "levels", "texts", "largest", "measured")
        counts = {value: self.counts.get(code, 0) for value, code in self.labels.items()}
        return {name: getattr(self, name) for name in kept} | {"labels": counts}

    def merge(self, of_all: Sequence[Mapping[str, Any] | None], processes: Processes) -> None:
        """Take over what all processes have found, in the order of their rows, as if all of these had been added.

        Raises:
            NotMergedError: if one process alone might have found something else.
        """
        if None in of_all:
            raise NotMergedError
        own = list(self.labels)
        self.processes, self.labels, self.counts, self.levels, self.kinds = processes, {}, {}, {}, {}
        self.n_rows, self.lost = 0, set()
        for found in filter(None, of_all):
            self.n_rows += found["n_rows"]
            self.single &= found["single"]
            self.texts |= found["texts"]
            self.measured |= found["measured"]
            for name, kind in found["kinds"].items():
                known = self.kinds.get(name, "missing")
                if known != "missing" and kind not in (known, "missing"):
                    raise NotMergedError
                self.kinds[name] = kind if known == "missing" else known
            for name, levels in found["levels"].items():
                merged = self.levels.setdefault(name, {})
                for value, count in levels.items():
                    merged[value] = merged.get(value, 0) + count
            for name, largest in found["largest"].items():
                self.largest[name] = max(self.largest.get(name, 0), largest)
            for value, count in found["labels"].items():
                code = self.labels.setdefault(value, len(self.labels))
                self.counts[code] = self.counts.get(code, 0) + count
        if len(self.labels) > MOST_VALUES or any(len(levels) > MOST_LEVELS for levels in self.levels.values()):
            raise NotMergedError
        for name in self.texts:
            levels = self.levels.get(name, {})
            if len(levels) > TELLING_VALUES:
                evidence = Evidence()
                odd = evidence.add(str(value) for value in islice(levels, TELLING_VALUES))
                if odd is None:  # numbers so far, and then something else
                    raise NotMergedError
                self.odd[name] = odd
                self.of_levels.add(name)
        if self.source.missing is not None:
            self.source.missing.merge(processes)
        table = np.array([self.labels[value] for value in own], dtype=np.uint8 if len(self.labels) < 256 else np.int16)
        self.targets = [table[codes] for codes in self.targets]
        self.roles.merge(processes)

    def result(self) -> Scan:
        source, processes = self.source, self.processes
        if not self.n_rows:
            raise InputError(f"{source.name} has a header and no rows")
        kept, notes = rows_in_use(source, self.columns, len(self.features), self.choices.missing, self.kept, processes)
        self.notes.extend(notes)
        if source.unnamed and self.choices.features is None:
            places = ", ".join(map(str, source.unnamed))
            self._note(WARNING, f"column {places} has no name and is not used (a row index?)")
        for name, kind in self.kinds.items():
            if kind == "missing" or (kind == "category" and not self.levels.get(name)):
                raise InputError(
                    f"{source.name}: column {name} holds no value at all; name the columns to use with --data.features"
                )
        self._settle_notations()
        if doubt := source.missing_in_words():
            self._note(WARNING, f"the text {doubt}")
        roles = self.roles.in_use(kept)
        for role, name in self.choices.roles.items():
            if ROLES[role].coded:
                continue
            own_doubt = ROLES[role].doubt(roles[role])
            doubts = processes.objects((own_doubt, len(roles[role])))
            doubt = next((doubt for doubt, n in doubts if n), None)
            if doubt is not None and all(found is not None or not n for found, n in doubts):
                self._note(WARNING, f"the {role} {name} {doubt}")
            if role in (WEIGHT.name, TRIALS.name) and not processes.any(bool((roles[role] > 0).any())):
                left = "" if kept is None else " that is left"
                raise InputError(f"{source.name}: the {role} {name} is 0 in every row{left}")
        if self.counted:
            own = (float(roles[role].sum()) for role in (SUCCESSES.name, TRIALS.name))
            successes, trials = processes.sums(*own)
            self._note(INFO, f"{self.choices.target} counts {successes:.17g} successes among {trials:.17g} trials")
            return scan_of(self._schema(None), None, self.roles, kept, self.single, self.notes, processes)
        labels = self._chosen_labels()
        positive = np.array([labels.of_value.get(value) == 1 for value in self.labels])
        y = np.empty(sum(map(len, self.targets)), dtype=np.uint8)
        rest = y
        while self.targets:
            codes = self.targets.pop(0)
            rest[: len(codes)] = positive[codes]
            rest = rest[len(codes) :]
        return scan_of(self._schema(labels), y, self.roles, kept, self.single, self.notes, processes)

    def _settle_notations(self) -> None:
        """Find the columns of text that hold numbers, dates or times; refuse those that are ambiguous."""
        for name in self.features:
            evidence = self._evidence_of(name) if name in self.texts else None
            if evidence is not None:
                if evidence.codes:
                    raise _AreCodes(name)
                self.evidence[name] = evidence
        commas = bool(self.source.decimal_marks) or any(found.notations == [COMMA] for found in self.evidence.values())
        with_comma = [name for name, mark in (self.source.decimal_marks or {}).items() if mark == ","]
        parsed = [name for name in self.features if name in set(with_comma) and self.kinds[name] == "number"]
        if parsed:
            self._note(INFO, f"numbers are read with a decimal comma in column {listed(parsed)}")
        for name, evidence in self.evidence.items():
            if evidence.ambiguous or (evidence.plain and commas):
                doubt = str(evidence.doubt)
                self._refuse_value(name, doubt, str(doubt_in_words(doubt, evidence.kind)))

    def _note(self, level: int, text: str) -> None:
        self.notes.append((level, " ".join(f"{self.source.name}: {text}".splitlines())))

    def _chosen_labels(self) -> Labels:
        target, source = str(self.choices.target), self.source
        counts = {value: self.counts[code] for value, code in self.labels.items()}
        try:
            found = choose_labels(counts, self.choices.positive, target, source.name, typed=source.typed)
        except InputError as error:
            left = {code for code, count in self.counts.items() if count}
            if len(left) > 1 or not self.lost - left - {-1}:
                raise
            n_left_out = self.n_rows - sum(counts.values())
            raise InputError(
                f"{error} after {n_left_out} of {self.n_rows} rows with missing values were left out; "
                + most_missing(source, self.columns)
            ) from None
        self._note(INFO, found.in_words(target))
        return found

    def _schema(self, found: Labels | None) -> TableSchema:
        """The schema, with labels found among the values of the target or, where it counts, 0 and 1."""
        choices = self.choices
        columns = tuple(self._column(name) for name in self.features)
        schema = TableSchema(
            columns,
            str(choices.target),
            (0, 1) if found is None else found.labels,
            missing=choices.missing,
            unseen=choices.unseen,
            spelling=None if found is None else found.spelling,
            na=choices.na,
            **{role: name for role, name in choices.roles.items() if ROLES[role].stored},
        )
        names = schema.feature_names
        if not names:
            raise InputError(f"{self.source.name}: no feature is left; every column has a single level")
        if len(set(names)) < len(names):
            double = next(name for name, count in Counter(names).items() if count > 1)
            raise InputError(f"{self.source.name}: two features would be named {double}; rename a column")
        return schema

    def _column(self, name: str) -> Column:
        kind, notation = self.kinds[name], None
        evidence = self.evidence.get(name)
        if evidence is not None:
            kind, notation, text = evidence.kind, evidence.notation, evidence.telling
            value = in_words(read(text, kind, notation) or 0.0, kind)
            self._note(INFO, f"column {name} holds text that is read as {kind}s: {shown(text)} is {value}")
        elif kind == "number":
            notation = NOTATION_OF_MARK.get((self.source.decimal_marks or {}).get(name))
        if kind in ("date", "time"):
            unit = "days since 1970-01-01" if kind == "date" else "days"
            self._note(INFO, f"column {name} is used as a number, {unit}")
        rounded = self.largest.get(name, 0) > LARGEST_EXACT_INTEGER
        if rounded or (evidence is not None and evidence.beyond_exact_integers):
            self._note(
                WARNING,
                f"column {name} holds integers beyond 2**53, which floating-point numbers round (an id?)",
            )
        if kind != "category":
            binary = kind == "number" and name not in self.measured
            if evidence is not None:
                values = {read(str(level), kind, notation) for level in self.levels[name]}
                binary = binary and values <= {0.0, 1.0}
            return Column(name, kind, notation=notation, binary=binary or None)
        levels = tuple(sorted(self.levels[name], key=lambda v: (isinstance(v, str), v)))
        self._refuse_spoilt(name)
        self._refuse_ids(name)
        self._note_units(name)
        if len(levels) == 1:
            self._note(WARNING, f"column {name} is constant ({levels[0]}) and makes no feature")
        return Column(name, kind, levels)

    def _note_units(self, name: str) -> None:
        """Warn if a column of text is a category although its values look like amounts, dates or times."""
        texts = [str(level) for level in self._telling(name)]
        if name not in self.texts or len(texts) < 3:
            return
        units = {text: unit_of(text) for text in texts}
        looks = {text: looks_like(text) or (kind_of_text(text) and "numbers") for text in texts}
        amounts = [text for text in texts if units[text] is not None]
        marked = any("." in text or "," in text or " " in text for text in amounts)
        alike = len(set(units.values())) == 1 and not set(units.values()) & set(ORDINALS)
        odd = next((text for text in texts if kind_of_text(text) is None and looks_like(text) is not None), None)
        if amounts and all(units[text] or looks[text] for text in texts) and (alike or marked):
            what = f"numbers with a unit, such as {shown(amounts[0])}"
        elif odd is not None and all(looks.values()):
            what = f"{looks[odd]}, such as {shown(odd)}"
        else:
            return
        self._note(WARNING, f"column {name} is taken as categorical, though its values look like {what}")
