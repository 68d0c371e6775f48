"""What TensorBoard serves of a real run, asked through its own HTTP interface."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tests.conftest import fit_in


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Two runs of different strength of penalty behind a TensorBoard on a free loopback port."""
    folder = tmp_path_factory.mktemp("tensorboard")
    for l2 in ("0.1", "0.001"):
        fit_in(folder, "--config", "conf/breast_cancer.yaml", "--model.l2", l2, "--quiet")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/data/{path}", data)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return json.loads(response.read())

    try:
        for _ in range(300):
            try:
                if len(get("runs")) == 2:
                    break
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.2)
        yield get
    finally:
        process.kill()
        process.wait()


RUNS = ["breast_cancer/version_0", "breast_cancer/version_1"]
HELD_OUT = ["loss", "accuracy", "auroc", "average_precision", "f1", "brier", "calibration_error"]


def test_scalars_are_those_of_the_design(ask):
    tags = ask("plugin/scalars/tags")
    assert sorted(tags) == RUNS
    for run in RUNS:
        assert sorted(tags[run]) == sorted(["train/loss", *(f"val/{name}" for name in HELD_OUT)])


def test_scalars_begin_with_epoch_0(ask):
    (event,) = ask("plugin/scalars/scalars?run=breast_cancer%2Fversion_0&tag=train%2Floss")
    assert event[1] == 0


def test_images_and_curves_are_there(ask):
    pictures = {"coefficients", "confusion_matrix", "effects", "precision_recall", "reliability", "roc"}
    for run in RUNS:
        assert set(ask("plugin/images/tags")[run]) == pictures
        assert list(ask("plugin/pr_curves/tags")[run]) == ["val"]


def test_configuration_and_report_are_texts(ask):
    for run in RUNS:
        assert sorted(tag.split("/")[0] for tag in ask("plugin/text/tags")[run]) == ["config", "report"]


def test_hparams_compare_the_runs(ask):
    experiment = ask("plugin/hparams/experiment", {"experimentName": ""})
    assert "model.l2" in {info["name"] for info in experiment["hparamInfos"]}
    names = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert {"train/loss", "val/auroc", "test/auroc"} <= names
    assert "hp_metric" not in names
    query = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_UNKNOWN"]}
    groups = ask("plugin/hparams/session_groups", {**query, "colParams": [], "startIndex": 0, "sliceSize": 10})
    strengths = sorted(group["hparams"]["model.l2"] for group in groups["sessionGroups"])
    assert strengths == [0.001, 0.1]
