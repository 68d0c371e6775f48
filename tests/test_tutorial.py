"""The tutorial's experiment, end to end: what its script printed must come out."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lr_lightning import HoursDataModule, LogisticRegression, load
from lr_lightning.statistics.render import as_text
from tests.conftest import QUIET_TRAINER

PRINTED_LOSS = {  # the tutorial's last ten lines: epoch, summed loss before that epoch's update
    990: 1.1588373184204102,
    991: 1.1582283973693848,
    992: 1.1576207876205444,
    993: 1.1570135354995728,
    994: 1.156407117843628,
    995: 1.155801773071289,
    996: 1.1551969051361084,
    997: 1.154592752456665,
    998: 1.1539894342422485,
    999: 1.1533868312835693,
}
PRINTED_PROBABILITY = 0.8327455520629883  # of passing after 4 hours


@pytest.fixture(scope="module")
def events(hours_run):
    accumulator = EventAccumulator(str(hours_run), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def test_every_epoch_is_recorded(events):
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1000))


def test_recorded_losses_are_the_printed_ones(events):
    recorded = {event.step: event.value for event in events.Scalars("train/loss")}
    assert {epoch: recorded[epoch] for epoch in PRINTED_LOSS} == pytest.approx(PRINTED_LOSS, abs=1e-6)


def test_probability_at_four_hours_is_the_printed_one(hours_run):
    probability = load(hours_run / "checkpoints" / "last.ckpt").probability(torch.tensor([[4.0]]))
    assert probability.shape == (1,)
    assert probability.item() == pytest.approx(PRINTED_PROBABILITY, abs=1e-7)


def test_only_the_scalars_of_the_design_are_there(events):
    assert events.Tags()["scalars"] == ["train/loss"]


def test_configuration_is_a_text_in_tensorboard(events):
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "initial_bias: 0.8751501339661699" in text


def test_hparams_tab_shows_settings_and_the_final_loss(events):
    plugin = events.summary_metadata["_hparams_/experiment"].plugin_data
    assert b"train/loss" in plugin.content
    start = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.lr" in start
    assert b"model.reduction" in start


def test_picture_is_in_tensorboard_and_in_the_run_folder(events, hours_run):
    assert sorted(events.Tags()["images"]) == ["coefficients", "effects", "loss", "probability_curve"]
    png = (hours_run / "figures" / "probability_curve.png").read_bytes()
    assert png.startswith(b"\x89PNG")


def test_picture_is_the_tutorials(hours_run):
    predictor = load(hours_run / "checkpoints" / "last.ckpt")
    axes = predictor.probability_curve([1.0, 2.0, 3.0], [0, 0, 1]).axes[0]
    curve, half, points = axes.lines
    assert axes.get_xlim() == (0, 10)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Hours", "Probability of Pass")
    assert (half.get_color(), set(half.get_ydata())) == ("red", {0.5})
    assert points.get_xydata().tolist() == [[1, 0], [2, 0], [3, 1]]
    x, p = np.asarray(curve.get_data())
    assert p == pytest.approx(predictor.probability(x[:, None]).numpy())
    assert any(line.get_visible() for line in axes.get_xgridlines())


def test_run_folder_holds_what_the_design_says(hours_run):
    names = {path.relative_to(hours_run).as_posix() for path in hours_run.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    pictures = {f"figures/{name}.png" for name in ("coefficients", "effects", "loss", "probability_curve")}
    assert names - events == {"config.yaml", "checkpoints/last.ckpt", "report.json"} | pictures


def test_last_lines_say_where_things_are(hours_run):
    said = (hours_run.parents[2] / "stderr.txt").read_text()
    last = said.splitlines()[-4:]
    assert "1.15339" in last[0]
    assert last[1] == "P(pass | 4 hours) = 0.8327455"
    assert last[2].endswith("runs/hours/version_0/checkpoints/last.ckpt")
    assert last[3].endswith("tensorboard --logdir runs")


def test_default_command_is_quiet(hours_run):
    """Nothing but progress, the report and the summary: no warning of a library, no advertisement."""
    said = (hours_run.parents[2] / "stderr.txt").read_text().splitlines()
    assert all(line.startswith("epoch ") for line in said[:10])
    report = load(hours_run / "checkpoints" / "last.ckpt").report()
    assert said[10:-4] == [*as_text(report).splitlines(), ""]
    assert (hours_run.parents[2] / "stdout.txt").read_text() == ""


def test_saved_configuration_reruns_to_the_same_result(hours_run, project, run):
    code, _, err = run("fit", "--config", hours_run / "config.yaml")
    assert code == 0, err
    again = project / "runs" / "hours" / "version_0" / "checkpoints" / "last.ckpt"
    first = torch.load(hours_run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    second = torch.load(again, weights_only=True)["state_dict"]
    assert json.dumps({k: v.tolist() for k, v in first.items()}) == json.dumps(
        {k: v.tolist() for k, v in second.items()}
    )


@pytest.mark.parametrize(
    ("weight", "bias"),
    [(-1.0, 0.6478126462223801), (-0.75, 0.7631279546496001), (-0.25, 0.9849197026826868)],
)
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_other_recovered_starts_end_at_the_same_place(weight, bias, precision):
    model = LogisticRegression(
        standardize=False,
        reduction="sum",
        initial_weight=weight,
        initial_bias=bias,
        optimizer="SGD",
        optimizer_options={"lr": 0.01},
    )
    trainer = Trainer(max_epochs=1000, precision=precision, **QUIET_TRAINER)
    trainer.fit(model, HoursDataModule())
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(PRINTED_LOSS[999], abs=1e-6)
    assert model(torch.tensor([[4.0]])).item() == pytest.approx(PRINTED_PROBABILITY, abs=1e-6)


def test_the_three_students_are_told_to_be_separated(hours_run):
    report = json.loads((hours_run / "report.json").read_text())
    assert report["separation"] == "complete"
    assert report["converged"] is False
    assert [row["std_error"] for row in report["coefficients"]] == [None, None]
    assert any("complete separation: hours" in warning for warning in report["warnings"])
