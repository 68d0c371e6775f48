"""Export of a fitted model as an ONNX graph, from raw columns to the label. It needs the extra `onnx`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lr_lightning.data.schema import Column, Level
from lr_lightning.errors import InputError
from lr_lightning.serving.predictor import Predictor
from lr_lightning.serving.scoring import UNITS, offset_of, refuse_infinite_levels
from lr_lightning.version import __version__

# These are the oldest versions with StringSplit (opset 20) and with LabelEncoder between text and double (opset 4 of
# ai.onnx.ml); most runtimes read them.
OPSET, ML_OPSET, IR_VERSION = 20, 4, 9
OUTPUTS = ("probability", "prediction")
MISSING_INTEGER = -(2**63)  # the prediction of a row without a probability if the labels are integers
# The white space of Python's str.strip without the blank, which StringSplit removes.
OTHER_WHITE_SPACE = r"[\t-\r\x{1c}-\x{1f}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"


def to_onnx(predictor: Predictor) -> onnx.ModelProto:
    """An ONNX graph from raw columns to the label, in double precision.

    Inputs: one for each raw column, under its name, shape (N, 1): text for a category of text, otherwise double
    (booleans as 0 and 1, dates as days since 1970-01-01, times as days; the offset, if there is one, as log-odds). A
    missing value is NaN, or blank text.

    Outputs, shape (N,): `probability` of the positive label, double, and `prediction`, the label in its own type.

    A graph cannot refuse a row. If `Predictor` would raise an error or give no prediction for a row, its probability
    is NaN. Its prediction is then "" for text labels, NaN for floating-point labels, −2⁶³ for integers, and the
    negative label for booleans, which have no third value. Such a row has a missing value without a fill, an infinite
    value, an unseen level that does not count as the reference, or a boolean other than 0 and 1.

    Args:
        predictor: the fitted model.

    Raises:
        InputError: if a column's name or a level cannot be represented in a graph.
    """
    schema, offset = predictor.schema, offset_of(predictor)
    inputs = [_input(column) for column in schema.columns]
    if offset is not None:
        inputs.append(helper.make_tensor_value_info(offset, TensorProto.DOUBLE, ["N", 1], "log-odds, the offset"))
    _refuse_names([each.name for each in inputs])
    graph = _Graph([*(each.name for each in inputs), *OUTPUTS])
    logit = _logit(graph, predictor, offset)
    one = graph.constant(np.float64(1.0))
    # Sigmoid in ONNX Runtime is 0 at a logit of −40; this formula keeps small probabilities.
    odds_against = graph.node("Exp", graph.node("Neg", logit))
    probability = graph.node("Reciprocal", graph.node("Add", one, odds_against), output="probability")
    label_type = _prediction(graph, probability, predictor.threshold, schema.predicted_labels)

    positive = f"P({schema.target} = {schema.written_labels[1]})"
    proto = helper.make_graph(
        graph.nodes,
        "logistic_regression",
        inputs,
        [
            helper.make_tensor_value_info("probability", TensorProto.DOUBLE, ["N"], positive),
            helper.make_tensor_value_info("prediction", label_type, ["N"], f"{schema.target} of the larger chance"),
        ],
        initializer=graph.constants,
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        ir_version=IR_VERSION,
        producer_name="lr_lightning",
        producer_version=__version__,
        doc_string=f"Logistic regression: {positive}, from {len(inputs)} raw columns",
    )
    metadata = {
        "version": __version__,
        "target": schema.target,
        "negative_label": schema.written_labels[0],
        "positive_label": schema.written_labels[1],
        "threshold": predictor.threshold,
        "schema": schema.to_dict(),
    }
    helper.set_model_props(model, {key: _text(value) for key, value in metadata.items()})
    return model


class _Graph:
    """The nodes and constants of a graph under construction, with unique names of tensors.

    Args:
        taken: names of inputs and outputs; the names of other tensors begin with a prefix that none of them has.
    """

    def __init__(self, taken: Sequence[str]):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = "_"
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix += "_"

    def _name(self) -> str:
        return f"{self._prefix}{len(self.nodes) + len(self.constants)}"

    def constant(self, values: np.ndarray | np.generic | str) -> str:
        """Add a constant, and return its name."""
        values = np.asarray(values, dtype=object if isinstance(values, str) else None)
        tensor = numpy_helper.from_array(values, self._name())
        self.constants.append(tensor)
        return tensor.name

    def node(self, operator: str, *inputs: str, output: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node with a single output, and return its name."""
        output = output or self._name()
        self.nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def trimmed(self, text: str) -> tuple[str, str]:
        """The text (N, 1) without outer blanks, and whether it is empty then, both (N, 1)."""
        parts, count = f"{self._name()}_parts", f"{self._name()}_count"
        # The shape of parts is (N, 1, 1), or (N, 1, 0) if all texts are blank.
        self.nodes.append(helper.make_node("StringSplit", [text], [parts, count], maxsplit=0))
        blank = self.node("Equal", count, self.constant(np.int64(0)))
        # With the input appended to the parts, Gather has an element to take if all texts are blank.
        padded = self.node("Concat", parts, self.node("Unsqueeze", text, self.constant(np.array([2]))), axis=2)
        return self.node("Gather", padded, self.constant(np.int64(0)), axis=2), blank


def _logit(graph: _Graph, predictor: Predictor, offset: str | None) -> str:
    """The linear predictor, shape (N,), with the values of the column `offset`; NaN where one is infinite."""
    model, schema = predictor.model, predictor.schema
    mean, scale, coefficients = (t.numpy() for t in (model.mean, model.scale, model.linear.weight[0]))
    place = {name: j for j, name in enumerate(schema.feature_names)}
    numeric = [column for column in schema.columns if column.kind != "category"]
    terms = []
    if numeric:
        features = [place[column.name] for column in numeric]
        terms.append(_numbers(graph, numeric, mean[features], scale[features], coefficients[features]))
    for column in schema.columns:
        if column.kind == "category":
            features = [place[name] for name in column.feature_names]
            of_level = coefficients[features] / scale[features]
            at_reference = -float(mean[features] @ of_level)
            of_level = at_reference + np.append(0.0, of_level)
            terms.append(_category(graph, column, of_level, schema.unseen, schema.na or ()))
    if offset is not None:
        nan = graph.constant(np.float64(math.nan))
        terms.append(graph.node("Where", graph.node("IsInf", offset), nan, offset))
    total = graph.node("ReduceSum", _joined(graph, terms), graph.constant(np.array([1])), keepdims=0)
    bias = 0.0 if model.linear.bias is None else float(model.linear.bias)
    return graph.node("Add", total, graph.constant(np.float64(bias)))


def _joined(graph: _Graph, columns: Sequence[str]) -> str:
    """The concatenation of k columns (N, 1), shape (N, k)."""
    return graph.node("Concat", *columns, axis=1)


def _numbers(
    graph: _Graph, columns: Sequence[Column], mean: np.ndarray, scale: np.ndarray, coefficients: np.ndarray
) -> str:
    """The contribution of the k columns of numbers to the logit, (N, 1); NaN if a value is missing or refused.

    The graph standardises the columns, as the model does. With coefficients on the raw scale, a column whose mean is
    large relative to its standard deviation would cancel against the intercept.

    Args:
        graph: the graph to which the nodes are added.
        columns: the columns.
        mean: their means, (k,).
        scale: their scales, (k,).
        coefficients: the coefficients of the standardised columns, (k,).
    """
    x = _joined(graph, [column.name for column in columns])
    if any(column.fill is not None for column in columns):
        fills = np.array([[math.nan if column.fill is None else float(column.fill) for column in columns]])
        x = graph.node("Where", graph.node("IsNaN", x), graph.constant(fills), x)
    refused = graph.node("IsInf", x)
    if any(column.kind == "boolean" for column in columns):
        zero, one = graph.constant(np.float64(0.0)), graph.constant(np.float64(1.0))
        truth = graph.node("Or", graph.node("Equal", x, zero), graph.node("Equal", x, one))
        booleans = graph.constant(np.array([[column.kind == "boolean" for column in columns]]))
        refused = graph.node("Or", refused, graph.node("And", booleans, graph.node("Not", truth)))
    x = graph.node("Where", refused, graph.constant(np.float64(math.nan)), x)
    centred = graph.node("Sub", x, graph.constant(mean[None]))
    standardized = graph.node("Div", centred, graph.constant(scale[None]))
    return graph.node("MatMul", standardized, graph.constant(coefficients[:, None]))


def _category(graph: _Graph, column: Column, of_level: np.ndarray, unseen: str, na: Sequence[str]) -> str:
    """The contribution of a category to the logit, (N, 1); NaN if the value is missing or unseen and that is refused.

    Args:
        graph: the graph to which the nodes are added.
        column: the category, with L levels.
        of_level: the contribution of each level, (L,).
        unseen: the rule for unseen levels, see `TableSchema`.
        na: the texts that count as missing, in addition to blank text.
    """
    _refuse_levels(column)
    unseen_term = of_level[0] if unseen == "reference" else math.nan
    missing_term = math.nan if column.fill is None else of_level[column.levels.index(column.fill)]
    refused = None
    if _is_text(column):
        # A text that was a level in the fit does not count as missing.
        named = [text for text in dict.fromkeys(na) if text and text not in column.levels]
        keys = np.array([*column.levels, *named], dtype=object)
        of_level = np.array([*of_level, *[missing_term] * len(named)])
        values, missing = graph.trimmed(column.name)
        if unseen == "reference":
            # The fit strips all white space from levels, StringSplit only blanks. Text with other white space is
            # refused, because it may be a level, and would count as unseen.
            pattern = f"(?s){OTHER_WHITE_SPACE}.*|.*{OTHER_WHITE_SPACE}"
            refused = graph.node("RegexFullMatch", values, pattern=pattern)
    else:
        keys = np.array([float(level) for level in column.levels])
        values, missing = column.name, graph.node("IsNaN", column.name)
    term = graph.node(
        "LabelEncoder",
        values,
        domain="ai.onnx.ml",
        keys_tensor=numpy_helper.from_array(keys),
        values_tensor=numpy_helper.from_array(of_level),
        default_tensor=numpy_helper.from_array(np.array([unseen_term])),
    )
    if refused is not None:
        term = graph.node("Where", refused, graph.constant(np.float64(math.nan)), term)
    return graph.node("Where", missing, graph.constant(np.float64(missing_term)), term)


def _prediction(graph: _Graph, probability: str, threshold: float, labels: tuple[Level, Level]) -> int:
    """Add the output `prediction`, shape (N,), and return its ONNX type."""
    positive = graph.node("Greater", probability, graph.constant(np.float64(threshold)))
    if all(isinstance(label, bool) for label in labels):  # there is no third value, and Where does not support booleans
        graph.node("Identity" if labels[1] else "Not", positive, output="prediction")
        return TensorProto.BOOL
    if all(isinstance(label, str) for label in labels):
        values, dtype = np.array([*labels, ""], dtype=object), TensorProto.STRING
    elif all(isinstance(label, int) and abs(label) < 2**63 for label in labels):
        values, dtype = np.array([*labels, MISSING_INTEGER], dtype=np.int64), TensorProto.INT64
    elif all(isinstance(label, float) for label in labels):
        values, dtype = np.array([*labels, math.nan]), TensorProto.DOUBLE
    else:
        raise InputError(f"the labels {labels[0]} and {labels[1]} have no common type that a graph could hold")
    negative, chosen, missing = (graph.constant(values[i]) for i in range(3))
    label = graph.node("Where", positive, chosen, negative)
    graph.node("Where", graph.node("IsNaN", probability), missing, label, output="prediction")
    return dtype


def _is_text(column: Column) -> bool:
    return column.kind == "category" and isinstance(column.levels[0], str)


def _input(column: Column) -> onnx.ValueInfoProto:
    dtype = TensorProto.STRING if _is_text(column) else TensorProto.DOUBLE
    meaning = UNITS.get(column.kind, f"one of {len(column.levels)} levels" if column.levels else "a number")
    return helper.make_tensor_value_info(column.name, dtype, ["N", 1], meaning)


def _refuse_names(names: Sequence[str]) -> None:
    for name in names:
        if name in OUTPUTS or not name:
            what = f"the name of an output, {name}" if name else "no name"
            raise InputError(
                f"a column has {what}, and so cannot be an input of an ONNX graph; rename it in the table and fit "
                "again, or export with --format json"
            )


def _refuse_levels(column: Column) -> None:
    refuse_infinite_levels(column)
    for level in column.levels:
        if isinstance(level, str) != _is_text(column) or (not isinstance(level, str) and float(level) != level):
            raise InputError(
                f"column {column.name} has the level {level}, which the graph's input cannot tell from others; make "
                "the column text and fit again, or export with --format json"
            )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
