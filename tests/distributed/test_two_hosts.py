"""torchrun on two hosts, which are two network namespaces of this machine."""

import os
import signal
import subprocess
import sys

import pytest
from pyarrow import csv, parquet

from lr_lightning import load
from tests.conftest import ROOT
from tests.distributed.hosts import NotPermittedError, two_hosts

SGD = ["--optimizer", "SGD", "--optimizer.lr", "0.1", "--data.batch_size", "50", "--trainer.max_epochs", "5"]
FIT = ["fit", "--config", "conf/breast_cancer.yaml", "--data.path", "table", "--trainer.precision", "64-true", *SGD]


pytestmark = pytest.mark.slow


@pytest.fixture
def hosts():
    try:
        with two_hosts() as hosts:
            yield hosts
    except NotPermittedError as reason:
        pytest.skip(f"no network namespaces here: {reason}")


def test_torchrun_on_two_hosts(hosts, project, run):
    """Each with a working directory and files of its own; the first writes all there is to write."""
    table, processes = csv.read_csv(project / "conf/samples/breast_cancer.csv"), []
    for number, host in enumerate(hosts):
        folder = project / f"host_{number}"
        for part in (folder / "table", project / "table"):
            part.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table.slice(200 * number, (200, None)[number]), part / f"{number}.parquet")
        (folder / "conf").symlink_to("../conf")
        rendezvous = ["--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1"]
        rendezvous += ["--master-addr", hosts[0].address, "--master-port", "29511"]
        ddp = ["--trainer.strategy", "ddp", "--trainer.num_nodes", "2", "--trainer.devices", "1"]
        command = [*host.command, sys.executable, "-m", "torch.distributed.run", *rendezvous, "-m", "lr_lightning"]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": host.interface, "PYTHONPATH": str(ROOT)}
        processes.append(
            subprocess.Popen(
                [*command, *FIT, *ddp, "--data.local_files", "true"],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
    try:
        said = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out for out, _ in said] == ["", ""]
    assert "final loss" in said[0][1]
    assert "final loss" not in said[1][1]
    assert "observations" not in said[1][1]
    assert not (project / "host_1/runs").exists()
    assert run(*FIT)[0] == 0
    checkpoint = "runs/breast_cancer/version_0/checkpoints/last.ckpt"
    alone, together = load(project / checkpoint), load(project / "host_0" / checkpoint)
    assert together.coefficients == pytest.approx(alone.coefficients, rel=1e-9)
    assert together.intercept == pytest.approx(alone.intercept, rel=1e-9)
