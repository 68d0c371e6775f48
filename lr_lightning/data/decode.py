"""Decoding of a table to tensors, in memory or in a cache folder, whose files are mapped into memory."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lr_lightning.data.cache import TensorCache, cache_folder, cache_key
from lr_lightning.data.choices import Choices, refuse_absent
from lr_lightning.data.encoder import prepare
from lr_lightning.data.features import Layout
from lr_lightning.data.imputation import Filled
from lr_lightning.data.mistakes import NotMergedError, mistakes_in_all, refused_together
from lr_lightning.data.prepare import FILLED, NUMBER, PARTS, Split, Sweeps
from lr_lightning.data.readers.base import KIND_IN_WORDS, LARGE, MissingTexts, PartOfSource, Source, kind_of
from lr_lightning.data.readers.csv import DelimitedSource
from lr_lightning.data.readers.csv_part import PartOfDelimited
from lr_lightning.data.readers.open import open_source
from lr_lightning.data.roles import FOLD, GROUPS, ROLES, TRIALS
from lr_lightning.data.rows_in_use import columns_of
from lr_lightning.data.schema import Level, TableSchema
from lr_lightning.errors import InputError
from lr_lightning.memory import fits_in_memory
from lr_lightning.model.gathering import rows_of_first
from lr_lightning.model.processes import ALONE, Processes, Share
from lr_lightning.model.rows import Rows
from lr_lightning.model.standardization import Standardization

log = logging.getLogger("lr_lightning")
_BYTES_BESIDE_ARROW = 2  # the standardised copy and what reading needs, in units of the table's size


@dataclass(frozen=True)
class Decoded:
    """A table that has been read, checked, split and standardised.

    Attributes:
        schema: the map from columns to features.
        training: means and scales (d,) of the training rows, in original units; scale 0 marks a constant column.
        served: what has been taken off the features of the parts.
        parts: training, validation and test rows; None for a part without rows.
        groups: numbers of the training rows' groups, int32, (n,), or None.
        folds: numbers of the training rows' folds, int32, (n,), or None.
        fold_values: the values of the fold column, by these numbers.
        weight_scale: the number by which the weights have been divided.
        log_coefficient: Σ weight·log C(trials, successes) of the training rows, 0 without trials.
        split_rule: by which the rows were divided into parts, see `data.splits`.
        fingerprint: a checksum of the labels of the rows in use, in order.
        rows_fingerprint: see `data.fingerprint`.
        messages: messages about what was found and decided, as (logging level, one line).
        mapped: whether the rows are mapped files in a cache folder.
        train_numbers: numbers of the training rows in the table, from 0, (n,); None where they are all of its rows.
        filled: which values of the training rows were missing; None for none.
        shares: where the rows of each part stand among those of all processes; None where they are all rows.
    """

    schema: TableSchema
    training: Standardization
    served: Standardization
    parts: tuple[Rows | None, ...]
    groups: Tensor | None
    folds: Tensor | None
    fold_values: list[Level]
    weight_scale: float
    log_coefficient: float
    split_rule: str
    fingerprint: int
    rows_fingerprint: str
    messages: tuple[tuple[int, str], ...]
    mapped: bool
    train_numbers: Tensor | None
    filled: Filled | None = None
    shares: tuple[Share, ...] | None = None

    @classmethod
    def of(cls, notes: Mapping[str, Any], tensors: Mapping[str, Tensor], *, mapped: bool) -> Decoded:
        """The decoded table from `Sweeps.notes` and the tensors that `Sweeps.write` has written."""
        training = Standardization(*(torch.tensor(values, dtype=torch.float64) for values in notes["training"]))
        schema = TableSchema.from_dict(notes["schema"])
        layout, missing = Layout.of(schema), tensors.get(f"{PARTS[0]}.{FILLED}")
        return cls(
            schema,
            training,
            layout.served(training),
            tuple(_rows(part, tensors, layout) for part in PARTS),
            tensors.get(f"train.{GROUPS.name}"),
            tensors.get(f"train.{FOLD.name}"),
            notes["fold_values"],
            notes["weight_scale"],
            notes["log_coefficient"],
            notes["split_rule"],
            notes["fingerprint"],
            notes["rows_fingerprint"],
            tuple((level, text) for level, text in notes["messages"]),
            mapped,
            tensors.get(f"{PARTS[0]}.{NUMBER}"),
            None if missing is None else Filled(notes["filled"], missing),
        )

    def share_of(self, processes: Processes) -> Decoded:
        """The share of one of several processes that have all rows."""
        own = [processes.share(size) for size in self._sizes]
        shares = tuple(Share(at.start, size) for at, size in zip(own, self._sizes, strict=True))
        if processes.count == 1:
            return replace(self, shares=shares)
        return self._divided(shares, lambda rows, part: rows.take(own[part]), lambda values: values[own[0]])

    @classmethod
    def of_first(cls, decode: Callable[[], Decoded], processes: Processes, *, mistaken: bool = False) -> Decoded:
        """A table that the first process decodes; the others get their shares of its rows from it.

        Args:
            decode: decodes the whole table.
            processes: that call this together.
            mistaken: whether this process has met a mistake in its part of the table; if the first one meets none, this
                one looks for it in the whole, too.

        Raises:
            InputError: if the table cannot be used.
        """
        with refused_together(processes, of_first=True):
            decoded = decode() if processes.rank == 0 else None
        with refused_together(processes):
            if mistaken and decoded is None:
                decode()
        found = processes.objects(None if decoded is None else (decoded._without_rows(), decoded._sizes))[0]
        empty, totals = found
        ends = np.array([[n * rank // processes.count for rank in range(processes.count + 1)] for n in totals])
        shares = tuple(Share(int(of_part[processes.rank]), int(of_part[-1])) for of_part in ends)
        sizes = (np.diff(ends) if decoded is not None else np.zeros((len(PARTS), processes.count), int)).tolist()
        return (decoded or empty)._divided(
            shares,
            lambda rows, part: rows_of_first(rows, sizes[part], processes),
            lambda values: processes.exchanged(values, sizes[0]),
        )

    @property
    def _sizes(self) -> list[int]:
        return [0 if rows is None else len(rows.y) for rows in self.parts]

    def _without_rows(self) -> Decoded:
        none = torch.empty(0, dtype=torch.int64)  # not a slice, which would be sent with all that it is a slice of
        return self._divided((), lambda rows, _: rows.take(none), lambda values: values[none])

    def _divided(
        self, shares: tuple[Share, ...], of_rows: Callable[[Rows, int], Rows], of_training: Callable[[Tensor], Tensor]
    ) -> Decoded:
        """With other rows of each part, and of what stands beside the training rows."""
        numbers = torch.arange(self._sizes[0]) if self.train_numbers is None else self.train_numbers
        return replace(
            self,
            parts=tuple(None if rows is None else of_rows(rows, part) for part, rows in enumerate(self.parts)),
            groups=None if self.groups is None else of_training(self.groups),
            folds=None if self.folds is None else of_training(self.folds),
            filled=None if self.filled is None else self.filled._replace(of_rows=of_training(self.filled.of_rows)),
            train_numbers=of_training(numbers),
            shares=shares,
        )


class Decoder:
    """Decodes a table, with all settings on which its tensors depend.

    Args:
        path: a file, a folder, or a table in memory.
        choices: the options about the columns of the table.
        split: the options of the split.
        given: the schema and the statistics of an earlier fit, which replace `choices`; None for a new fit.
        cache_dir: the folder to decode into. None decodes into memory, or into the default cache folder if the table
            does not fit in memory.
        local_files: whether each machine has files of its own under the path, which together are the table.

    Raises:
        InputError: if there is no such table, or a column is missing.
    """

    def __init__(
        self,
        path: Any,
        choices: Choices,
        split: Split,
        given: tuple[TableSchema, Standardization] | None,
        cache_dir: str | None,
        *,
        local_files: bool = False,
    ):
        if given is not None and split.every_row:  # without a split, nothing is asked of the groups
            given = replace(given[0], groups=None), given[1]
        self._choices, self._split, self._given, self._cache_dir = choices, split, given, cache_dir
        self._local_files = local_files
        self.source = open_source(path)
        self._columns = _expect(self.source, choices) if given is None else _expect_again(self.source, given[0])

    def needs_cache(self) -> bool:
        """Whether the table is decoded into a cache folder."""
        if self.source.identity() is None:
            return False
        if self._cache_dir is not None:
            return True
        return not fits_in_memory(_BYTES_BESIDE_ARROW * self.source.decoded_bytes(self._columns))

    def is_shared(self, processes: Processes) -> bool:
        """Whether each of several processes is to read its share of the table alone."""
        if processes.count == 1 or (isinstance(self.source, DelimitedSource) and self._cache_dir is not None):
            return False
        return self.source.n_rows() is not None or self._has_ranges(processes)

    def _has_ranges(self, processes: Processes) -> bool:
        """Whether each of several processes is to read a range of a text file, and this machine has memory for them."""
        own = self.source.decoded_bytes(self._columns) // processes.count * processes.on_machine
        suits = isinstance(self.source, DelimitedSource) and PartOfDelimited.suits(self.source)
        return suits and fits_in_memory(_BYTES_BESIDE_ARROW * own)

    def decode(self, dtype: torch.dtype, processes: Processes = ALONE) -> Decoded:
        """The decoded table, from the cache folder if it is there already.

        Of several processes each reads its share of the rows of a table that can be read in parts. Any other table is
        read by the first one, or where it goes into a cache by the first one of each machine; so is one in which a
        process meets a mistake, or where their findings say nothing certain about the whole. The mistake is then that
        of one process. Local files have no whole; there a mistake names the process that has met it.

        Args:
            dtype: the Trainer's dtype, for large tables; see `Sweeps.dtype`.
            processes: that call this together.

        Raises:
            InputError: if the table cannot be used, or the cache folder cannot be written.
        """
        if processes.count == 1:
            return self._whole(dtype)
        if self._local_files:
            return self._local_share(dtype, processes)
        mistaken = False
        try:
            part = self._part(processes)
            if part is not None:
                return self._share(dtype, part, processes)
        except NotMergedError as error:
            mistaken = bool(str(error))
        if not processes.any(self.needs_cache()):
            return Decoded.of_first(lambda: self._whole(dtype), processes, mistaken=mistaken)
        with refused_together(processes):
            decoded = self._whole(dtype) if processes.rank == processes.first_on_machine else None
        with refused_together(processes):
            decoded = decoded or self._whole(dtype)
        return decoded.share_of(processes)

    def _part(self, processes: Processes) -> Source | None:
        """The part of the table that this process reads; None where all read the whole."""
        source, n_rows = self.source, self.source.n_rows()
        known = self.is_shared(processes), n_rows, source.decoded_bytes(self._columns)
        if processes.objects(known) != [known] * processes.count or not known[0]:
            return None
        if isinstance(source, DelimitedSource):
            return PartOfDelimited(source, processes)
        own = processes.share(n_rows or 0)
        return PartOfSource(source, own.start, own.stop)

    def _whole(self, dtype: torch.dtype) -> Decoded:
        return self._in_cache(dtype, self.source) if self.needs_cache() else self._in_memory(dtype, self.source)

    def _local_share(self, dtype: torch.dtype, processes: Processes) -> Decoded:
        """The share of this process, which is one of its machine's files."""
        n_rows = self.source.n_rows()
        if not processes.all(n_rows is not None):
            raise InputError(f"--data.local_files: {self.source.name} must be Parquet or Arrow files on every machine")
        told = processes.objects((platform.node(), self.source.names))
        for rank, (host, names) in enumerate(told):
            differing = ", ".join(sorted(set(names) ^ set(told[0][1]))[:5])
            if differing:
                raise InputError(
                    f"process {rank + 1} of {processes.count}, on {host}: {self.source.name} has not the columns that "
                    f"it has on {told[0][0]}: they differ in {differing}"
                )
        self.source.names = list(told[0][1])
        if self._given is None:
            self._columns = _expect(self.source, self._choices)  # the features are in one order on all machines
        try:
            own = processes.share(int(n_rows or 0), of_machine=True)
            return self._share(dtype, PartOfSource(self.source, own.start, own.stop), processes)
        except NotMergedError as error:
            with refused_together(processes):
                if mistake := str(error):
                    raise InputError(mistake) from None
        self._refuse_other_kinds(processes)
        raise InputError(
            f"--data.local_files: {self.source.name} does not tell on one machine what its columns hold on all: one "
            "holds too many texts; store numbers, dates and times as such"
        )

    def _refuse_other_kinds(self, processes: Processes) -> None:
        """Raise InputError if a column holds other things in the files of one machine than in those of another."""
        types = [batch.schema for batch in self.source.rows(self._columns, 0, 1)]
        kinds = {field.name: kind_of(field.type) or f"{field.type}" for schema in types for field in schema}
        known: dict[str, tuple[str, str]] = {}
        for rank, (host, of_host) in enumerate(processes.objects((platform.node(), kinds))):
            for name, kind in of_host.items():
                other, first = known.setdefault(name, (kind, host)) if kind != "missing" else (kind, host)
                if kind != other:
                    found, expected = (KIND_IN_WORDS.get(k, k) for k in (kind, other))
                    raise InputError(
                        f"process {rank + 1} of {processes.count}, on {host}: {self.source.name}: column {name} holds "
                        f"{found}, on {first} {expected}; store it with one type"
                    )

    def _share(self, dtype: torch.dtype, part: Source, processes: Processes) -> Decoded:
        """The share of this process, a part of the source.

        Raises:
            InputError: if the table cannot be used, or the cache folder cannot be written.
            NotMergedError: if one process has met a mistake, or the whole has to be read.
        """
        needed = _BYTES_BESIDE_ARROW * part.decoded_bytes(self._columns) * processes.on_machine
        if self._cache_dir is None and processes.all(fits_in_memory(needed)):
            return self._in_memory(dtype, part, processes)
        if isinstance(part, PartOfDelimited):
            raise NotMergedError
        return self._in_cache(dtype, part, processes)

    def _sweeps(self, source: Source, processes: Processes) -> Sweeps:
        return Sweeps(source, self._choices, self._split, self._given, processes)

    def _in_memory(self, dtype: torch.dtype, source: Source, processes: Processes = ALONE) -> Decoded:
        with mistakes_in_all(processes):
            loaded = source.load(self._columns)
        is_large = source.decoded_bytes(self._columns) > LARGE
        if is_large:
            pa.default_memory_pool().release_unused()  # what reading needed beside the columns
        sweeps = self._sweeps(loaded, processes)
        dtype = sweeps.dtype(dtype)
        sweeps.tell_light_weights(dtype)
        tensors, notes = sweeps.room(dtype, sweeps.partition.sizes), sweeps.notes()
        room = {name: tensor.numpy() for name, tensor in tensors.items()}  # the parts that are still to be filled

        def append(name: str, rows: np.ndarray) -> None:
            room[name][: len(rows)] = rows
            room[name] = room[name][len(rows) :]

        # A new fit has met all mistakes by now, and needs each row once more.
        with mistakes_in_all(processes):
            sweeps.write(dtype, append, loaded.drain if self._given is None and loaded is not source else None)
        if is_large:
            pa.default_memory_pool().release_unused()
        return self._placed(Decoded.of(notes, tensors, mapped=False), processes)

    def _in_cache(self, dtype: torch.dtype, source: Source, processes: Processes = ALONE) -> Decoded:
        cache = TensorCache(cache_folder(self._cache_dir))
        key = cache_key(self._settings(dtype, source, processes))
        found = cache.open(key)
        if not processes.all(found is not None):
            sweeps = self._sweeps(source, processes)
            served_in = sweeps.dtype(dtype)
            sweeps.tell_light_weights(served_in)
            notes = sweeps.notes()
            with refused_together(processes), cache.writer(key) as writer:
                for name, tensor in sweeps.room(served_in).items():
                    writer.append(name, tensor.numpy())
                sweeps.write(served_in, writer.append)
                writer.finish(notes)
            log.info(f"{self.source.name}: decoded into {cache.folder / key}; delete it when you no longer need it")
            found = cache.open(key)
        with refused_together(processes):
            if found is None:
                raise InputError(f"--data.cache_dir: the decoded table in {cache.folder} cannot be read back")
        return self._placed(Decoded.of(*found, mapped=True), processes)

    @staticmethod
    def _placed(decoded: Decoded, processes: Processes) -> Decoded:
        """With the places of the rows among those of all processes."""
        if processes.count == 1:
            return decoded
        sizes = [0 if rows is None else len(rows.y) for rows in decoded.parts]
        return replace(decoded, shares=tuple(map(processes.place, sizes)))

    def _settings(self, dtype: torch.dtype, source: Source, processes: Processes) -> list[Any]:
        """The settings on which the tensors depend, as plain values, for the key in the cache."""
        given = None
        if self._given is not None:
            schema, training = self._given
            given = [schema.to_dict(), *(values.tolist() for values in training)]
        identities = [source.identity()]
        if processes.count > 1:  # the split and the statistics are those of all
            identities += [processes.rank, *processes.objects(source.identity())]
        return [identities, vars(self._choices), list(vars(self._split).values()), str(dtype), given]


def _expect(source: Source, choices: Choices) -> list[str]:
    """The columns to read for a new fit; sets the type of the target and the missing texts in the source."""
    features = choices.feature_columns(source)
    names = columns_of(features, str(choices.target), choices.roles)
    # Labels, groups and folds keep their spelling in a text file.
    as_text = [name for role, name in choices.roles.items() if ROLES[role].coded and name not in features]
    if TRIALS.name not in choices.roles:
        as_text.append(str(choices.target))
    source.expect(dict.fromkeys(as_text, pa.string()))
    source.count_as_missing(MissingTexts(choices.na, dict.fromkeys(names, ())))
    return names


def _expect_again(source: Source, schema: TableSchema) -> list[str]:
    """The columns to read for the schema of an earlier fit; sets their types and the missing texts in the source."""
    names = [column.name for column in schema.columns]
    refuse_absent(names, source)
    for role, name in {"target": schema.target, **schema.roles}.items():
        refuse_absent([name], source, f"{role} column")
    prepare(source, schema, labelled=True)
    return columns_of(names, schema.target, schema.roles)


def _rows(part: str, tensors: Mapping[str, Tensor], layout: Layout) -> Rows | None:
    y, *others = (tensors.get(f"{part}.{name}") for name in Rows._fields[1:])
    if y is None:
        return None
    numbers, codes = (tensors.get(f"{part}.{name}") for name in ("x", "codes"))
    return Rows(layout.features(y.new_empty(len(y), 0) if numbers is None else numbers, codes), y, *others)
