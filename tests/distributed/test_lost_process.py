"""A process is killed in the middle of a fit."""

import contextlib
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from lr_lightning import LogisticRegression, TensorDataModule, load
from lr_lightning.cli.trainer import _lost, _Member, plain_if_a_process_is_lost
from lr_lightning.errors import ProcessLostError
from tests.conftest import ROOT
from tests.distributed.several import in_processes
from tests.distributed.test_fit import table, trainer_for

pytestmark = pytest.mark.slow

FIT = ["fit", "--config", "conf/breast_cancer.yaml", "--trainer.precision", "64-true"]
FIT += ["--optimizer", "SGD", "--optimizer.lr", "0.1", "--data.batch_size", "50", "--quiet"]
ENDLESS = [*FIT, "--trainer.max_epochs", "1000000"]
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
PATIENCE = 120.0
CHILDREN = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")


COMMAND_LINE = """
import sys
from lr_lightning.training.callbacks import checkpoints
from lr_lightning.cli.main import main

checkpoints.SECONDS_BETWEEN_SAVES = 0.1
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture
def script(project):
    """The command line, but that it saves oftener."""
    path = project / "command_line.py"
    path.write_text(COMMAND_LINE)
    return path


def start(folder, *arguments):
    """A command in a session of its own, with all that it says in files."""
    # torchrun would give the restarted processes the store of the first ones, and in it their old addresses.
    variables = {"PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ | variables,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def end(process):
    """It and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition, what):
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, f"still not: {what}"
        time.sleep(0.05)


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not CHILDREN.exists(), reason="needs /proc to find the processes")
@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_process_of_the_launcher_ends_in_one_line(project, script, victim):
    checkpoint = project / "runs/breast_cancer/version_0/checkpoints/last.ckpt"
    main = start(project, script, *ENDLESS, *DDP)
    try:
        wait_until(checkpoint.exists, "the first checkpoint")
        processes = [main.pid, *children(main)]
        assert len(processes) == 2
        os.kill(processes[victim], signal.SIGKILL)
        main.wait(PATIENCE)
        wait_until(lambda: not any(map(alive, processes)), "the end of the other process")
    finally:
        end(main)
    survivor = 1 - victim
    lines = (project / "stderr").read_text().splitlines()
    said = rf"error: process {survivor + 1} of 2, on {re.escape(platform.node())}, ends: "
    said += rf"process {victim + 1}, on {re.escape(platform.node())}, has ended or no longer answers"
    assert re.fullmatch(said, lines[-1])
    assert "Traceback" not in "".join(lines)
    assert len([line for line in lines if "error" in line]) == 1
    assert (project / "stdout").read_text() == ""
    if victim:
        assert main.returncode == 1
    assert set(load(checkpoint).coefficients) > {"mean radius"}
    assert [path.name for path in checkpoint.parent.iterdir() if path.suffix != ".ckpt"] == []


class Ends(Callback):
    """The second of three processes ends: in a pass, or as it reads its share."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.global_rank == 1 and trainer.current_epoch == 1:
            os._exit(9)


def the_second_of_three_ends(hosts, where):
    rank = int(os.environ["RANK"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform, "node", lambda: hosts[rank])
        if where == "reading" and rank == 1:
            patch.setattr(TensorDataModule, "setup", lambda self, stage: os._exit(9))
        trainer = trainer_for(3, max_epochs=5, callbacks=[Ends()])
        x, y, _ = table(60_000)
        with pytest.raises(ProcessLostError) as lost, plain_if_a_process_is_lost(trainer):
            trainer.fit(LogisticRegression(), TensorDataModule(x, y))
    return str(lost.value)


@pytest.mark.parametrize("where", ["a pass", "reading"])
def test_a_lost_process_is_named_with_its_host(where):
    """The address does not tell the three apart: here all have the same one.

    One of the two others may meet the loss only as the other ends, and then names both.
    """
    first, second, third = in_processes(3, the_second_of_three_ends, ["ada"] * 3, where)
    assert second is None
    end = "process 2, on ada, {}has ended or no longer answers"
    assert first in ("process 1 of 3, on ada, ends: " + end.format(late) for late in ("", "or process 3, on ada, "))
    early = "process 3 of 3, on ada, ends: {}" + end.format("")
    assert third in (early.format(late) for late in ("", "process 1, on ada, or "))


def test_a_process_of_another_host_is_known_by_its_address():
    members = [_Member("ada", 1, ["10.0.0.1"]), _Member("bob", 2, ["10.0.0.2", "10.1.0.2"]), _Member("cy", 3, [])]
    assert _lost(members, 0, "10.1.0.2") == [1]
    assert _lost(members, 2, "10.0.0.1") == [0]
    assert _lost(members, 0, "10.9.9.9") == [1, 2]
    members.append(_Member("ada", os.getpid(), ["10.0.0.1"]))
    assert _lost(members, 0, "10.0.0.2") == [1]


@pytest.mark.parametrize("code", [1, 3])
def test_a_process_that_dies_in_its_imports_ends_the_first_in_one_line(project, code):
    """Which Lightning, left to itself, would kill without a word."""
    script = project / "command_line.py"
    script.write_text(f"import os, sys\n\nif 'LOCAL_RANK' in os.environ:\n    sys.exit({code})\n{COMMAND_LINE}")
    main = start(project, script, *ENDLESS, *DDP)
    try:
        main.wait(PATIENCE)
    finally:
        end(main)
    said = "error: process 1 ends: a process that it has started has ended before the fit began\n"
    assert (main.returncode, (project / "stderr").read_text()) == (1, said)
    assert not any((project / "runs").glob("*"))


@pytest.mark.skipif(not CHILDREN.exists(), reason="needs /proc to find the processes")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_the_start_ends_both_processes_in_one_line(project, signum, code):
    """As Ctrl-C sends it to both: the first waits for the second, inside of torch, which the second still imports."""
    main = start(project, "-m", "lr_lightning", *ENDLESS, *DDP)
    try:
        wait_until(lambda: children(main), "the second process")
        processes = [main.pid, *children(main)]
        wait_until(lambda: "libtorch" in Path(f"/proc/{processes[1]}/maps").read_text(), "the import of torch")
        os.killpg(main.pid, signum)
        main.wait(PATIENCE)
        wait_until(lambda: not any(map(alive, processes)), "the end of the other process")
    finally:
        end(main)
    assert main.returncode == code
    said = f"stopped by {signum.name} before the first epoch; nothing was kept\n"
    assert ((project / "stdout").read_text(), (project / "stderr").read_text()) == ("", said)
    assert not any((project / "runs").glob("*"))


@pytest.mark.skipif(not CHILDREN.exists(), reason="needs /proc to find the processes")
def test_torchrun_starts_again_and_goes_on_from_the_last_checkpoint(project, script, run):
    last = project / "runs/breast_cancer/version_0/checkpoints/last.ckpt"
    fit = [*FIT, "--trainer.max_epochs", "40", "--trainer.logger", "false"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    main = start(project, *torchrun, script, *fit, *DDP)
    try:
        wait_until(lambda: last.exists() or main.poll() is not None, "the first checkpoint")
        before = load(last).coefficients
        os.kill(children(main)[0], signal.SIGKILL)
        main.wait(2 * PATIENCE)
    finally:
        end(main)
    said = (project / "stderr").read_text()
    assert main.returncode == 0, said
    assert [path.name for path in last.parent.parent.parent.iterdir()] == ["version_0"]
    found = load(last).coefficients
    assert found != before
    assert run(*fit)[0] == 0
    alone = load(str(last).replace("version_0", "version_1")).coefficients
    assert found == pytest.approx(alone, rel=1e-9)
