"""Experiments as files: every YAML runs, overlays compose, a run can be repeated, any logger keeps its record."""

import csv
import json
import shutil
from functools import cache

import hypothesis
import pytest
import torch
import yaml
from hypothesis import strategies as st

from lr_lightning import load
from lr_lightning.cli.fit_settings import make_parser, saved_text
from lr_lightning.cli.main import main
from lr_lightning.cli.parse import parse
from tests.conftest import ROOT

# path.yaml is for `path`, and tested with it
EXPERIMENTS = sorted(path.name for path in (ROOT / "conf").glob("*.yaml") if path.name != "path.yaml")
OVERLAYS = sorted(path.name for path in (ROOT / "conf" / "trainer").glob("*.yaml"))


def run_folders(project):
    return sorted(str(path.relative_to(project / "runs")) for path in (project / "runs").glob("*/*"))


@pytest.fixture
def printed(capfd):
    """What `fit … --print_config` prints."""

    def printed(*options):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["fit", *options, "--print_config"])
        out, err = capfd.readouterr()
        assert (stop.value.code, err) == (0, "")
        return out

    return printed


def restricted(settings, keys):
    """What settings say under the keys of a tree; jsonargparse writes the defaults beside them."""
    if not isinstance(keys, dict):
        return settings
    return {key: restricted(settings[key], values) for key, values in keys.items()}


@pytest.mark.pictures
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_makes_one_pass(project, run, experiment):
    code, _, err = run("fit", "--config", f"conf/{experiment}", "--trainer.max_epochs", "1", "--quiet")
    assert code == 0, err
    name = experiment.removesuffix(".yaml")
    assert run_folders(project) == [f"{name}/version_0"]
    assert json.loads((project / f"runs/{name}/version_0/report.json").read_text())["passes"] == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_composes_with_every_experiment(project, printed, overlay):
    settings = yaml.safe_load((ROOT / "conf" / "trainer" / overlay).read_text())
    for experiment in EXPERIMENTS:
        alone = yaml.safe_load((ROOT / "conf" / experiment).read_text())
        both = yaml.safe_load(printed("--config", f"conf/{experiment}", "--config", f"conf/trainer/{overlay}"))
        expected = {**alone.get("trainer", {}), **settings["trainer"]}
        assert restricted(both["trainer"], expected) == expected
        assert restricted(both["model"], alone["model"]) == alone["model"]
    assert not any((project / "runs").glob("*"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_makes_one_pass(project, run, overlay):
    settings = yaml.safe_load((ROOT / "conf" / "trainer" / overlay).read_text())["trainer"]
    if settings["accelerator"] == "gpu" and not torch.cuda.is_available():
        pytest.skip(f"{overlay} needs a GPU")
    if settings["devices"] != 1:
        pytest.skip(f"{overlay} starts the command again, which here is pytest's: tests/distributed tries it")
    command = ["fit", "--config", "conf/breast_cancer.yaml", "--config", f"conf/trainer/{overlay}"]
    assert run(*command, "--trainer.max_epochs", "1", "--quiet")[0] == 0
    assert run_folders(project) == ["breast_cancer/version_0"]


def test_printed_configuration_is_yaml_that_can_be_fed_back(project, run, printed):
    options = ["--config", "conf/breast_cancer.yaml", "--model.l2", "0.5", "--data.seed", "7"]
    text = printed(*options)
    assert not any((project / "runs").glob("*"))
    (project / "fed_back.yaml").write_text(text)
    assert run("fit", *options, "--quiet")[0] == 0
    assert run("fit", "--config", "fed_back.yaml", "--quiet")[0] == 0
    runs = ("breast_cancer", "fed_back")
    asked, fed_back = ((project / f"runs/{name}/version_0/report.json").read_bytes() for name in runs)
    assert asked == fed_back
    assert printed("--config", "fed_back.yaml") == text


MINI_BATCHES = ["--optimizer", "Adam", "--optimizer.lr", "0.1", "--data.batch_size", "32", "--trainer.max_epochs", "5"]


@pytest.mark.parametrize(
    "options",
    [
        ["--config", "conf/hours.yaml", "--trainer.max_epochs", "50"],
        ["--config", "conf/exam.yaml", "--config", "conf/trainer/cpu.yaml", "--covariance", "robust", "--level", "0.9"],
        ["--config", "conf/breast_cancer.yaml", "--model.l1", "0.01", "--model.threshold", "f1", "--data.seed", "3"],
        ["--config", "conf/breast_cancer.yaml", *MINI_BATCHES],
        ["--data.path", "conf/samples/exam.csv", "--data.target", "passed", "--model.class_weight", "balanced"],
    ],
    ids=["hours", "overlay", "elastic net", "mini-batches", "options alone"],
)
def test_saved_configuration_gives_the_same_result_again(project, run, options):
    assert run("fit", *options, "--quiet")[0] == 0
    (first,) = (project / "runs").glob("*/version_0")
    code, _, err = run("fit", "--config", first.relative_to(project) / "config.yaml")
    assert code == 0, err
    again = first.parent / "version_1"  # of the same experiment, not of one that is called config
    assert run_folders(project) == [str(path.relative_to(project / "runs")) for path in (first, again)]
    assert (again / "report.json").read_bytes() == (first / "report.json").read_bytes()
    states = [torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for path in (first, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# ---- loggers ------------------------------------------------------------------------------------------------

TWO_CSV_LOGGERS = [{"class_path": "CSVLogger", "init_args": {"save_dir": "logs", "name": name}} for name in "ab"]


@pytest.mark.parametrize(
    ("options", "folders"),
    [
        (["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"], ["lightning_logs"]),
        (["--trainer.logger", json.dumps(TWO_CSV_LOGGERS)], ["a", "b"]),
    ],
    ids=["one", "list"],
)
def test_a_logger_of_lightning_gets_metrics_and_settings_and_tensorboard_stays(project, run, options, folders):
    code, _, err = run("fit", "--config", "conf/breast_cancer.yaml", "--model.l2", "0.05", "--quiet", *options)
    assert code == 0, err
    run_folder = project / "runs/breast_cancer/version_0"
    assert len(list(run_folder.glob("events.out.tfevents.*"))) == 1
    assert {path.stem for path in (run_folder / "figures").iterdir()} >= {"roc", "coefficients"}
    report = load(run_folder / "checkpoints/last.ckpt").report()
    for folder in folders:
        with (project / "logs" / folder / "version_0/metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
        assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(report.passes))
        assert losses[-1] <= losses[0]
        assert sum(bool(row["val/auroc"]) for row in rows) == report.passes
        settings = yaml.safe_load((project / "logs" / folder / "version_0/hparams.yaml").read_text())
        assert settings["model.l2"] == 0.05
        assert settings["data.target"] == "diagnosis"


def test_tests_metrics_go_to_a_logger_that_is_named(breast_cancer_run, project, run):
    checkpoint = shutil.copytree(breast_cancer_run, project / "runs/breast_cancer/version_0") / "checkpoints/last.ckpt"
    options = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"]
    code, out, err = run("test", "--ckpt_path", checkpoint, *options)
    assert code == 0, err
    with (project / "logs/lightning_logs/version_0/metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {name: f"{float(row[name]):.6g}" for name in row if name != "step"} == dict(map(str.split, out.splitlines()))


def test_without_a_logger_there_are_no_events_and_no_word_of_tensorboard(project, run):
    code, _, err = run("fit", "--config", "conf/exam.yaml", "--trainer.logger", "false")
    assert code == 0
    assert "tensorboard" not in err
    there = sorted(path.name for path in (project / "runs/exam/version_0").iterdir())
    assert there == [
        "checkpoints",
        "config.yaml",
        "figures",
        "report.json",
    ]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--trainer.logger", "CSVLogger"], ["trainer.logger.save_dir", "required"]),
        (["--trainer.logger", "NoSuchLogger"], ["trainer.logger", "NoSuchLogger"]),
        (
            [
                "--trainer.callbacks",
                '[{"class_path": "EarlyStopping", "init_args": {"monitor": "a", "mode": "least"}}]',
            ],
            ["trainer", "least"],
        ),
    ],
)
def test_mistake_about_loggers_and_callbacks_ends_in_one_line(project, run, options, named):
    code, out, err = run("fit", "--config", "conf/exam.yaml", *options)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err
    assert [word for word in named if word not in err.splitlines()[-1]] == []
    assert not any((project / "runs").glob("*"))


def test_a_logger_whose_package_is_missing_is_refused_in_one_line(project, run, monkeypatch):
    """As Lightning says it where wandb is not installed, whether or not it is here."""
    import lightning.pytorch.loggers.wandb as module

    class Missing:
        def __bool__(self):
            return False

        def __str__(self):
            return "Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install -U 'wandb>=0.12.10'`"

    monkeypatch.setattr(module, "_WANDB_AVAILABLE", Missing())
    code, out, err = run("fit", "--config", "conf/exam.yaml", "--trainer.logger", "WandbLogger")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: trainer: WandbLogger: Requirement 'wandb>=0.12.10' not met.")


# ---- text as it is written ------------------------------------------------------------------------------------

WORDS = ["2024", "1e3", "no", "on", "0x10", "1_000", "2024-01-01", "012", "1:30", "true", "=", "@x"]  # of YAML
WORDS += [
    "Result: ok",
    "[a]",
    "{x}",
    "- a",
    "# b",
    "~",
    "Null",
    "*a",
    "&a b",
    "!x",
    "%a",
    "|",
    ": b",
    "a:",
    "'q'",
    '"q"',
]
TEXTS = ("path", "target", "positive", "weight", "cache_dir")


@cache
def parser():
    return make_parser()


def parsed(*options):
    return parse(parser(), [*map(str, options)])


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("form", ["--data.{}\n{}", "--data.{}={}", "--data.init_args.{}\n{}"])
def test_options_take_text_as_it_is_written(word, form):
    config = parsed(*(part for name in TEXTS for part in form.format(name, word).split("\n")))
    assert [config.data.init_args[name] for name in TEXTS] == [word] * len(TEXTS)
    assert parsed("--data.path", "x", "--ckpt_path", word).ckpt_path == word


@pytest.mark.parametrize("word", WORDS[:10])
def test_files_take_text_as_it_is_written(tmp_path, word):
    """Unquoted: what YAML makes of it counts for options of other kinds alone."""
    lines = [f"    {name}: {word}\n" for name in TEXTS]
    lists = f"    features: [{word}, x]\n    categorical:\n    - {word}\n"
    weight = f"model:\n  standardize: off\n  l2: 1_0\n  class_weight: {{{word}: 2}}\n"
    (tmp_path / "a.yaml").write_text("data:\n  init_args:\n" + "".join(lines) + lists + weight)
    config = parsed("--config", tmp_path / "a.yaml")
    data = config.data.init_args
    assert [data[name] for name in TEXTS] == [word] * len(TEXTS)
    assert (data.features, data.categorical) == ([word, "x"], [word])
    assert (config.model.class_weight, config.model.standardize, config.model.l2) == ({word: 2.0}, False, 10.0)
    line = parsed("--data.path", "x", "--data.features", f"[{word}, x]", "--model.class_weight", f"{{{word}: 2}}")
    assert (line.data.init_args.features, line.model.class_weight) == ([word, "x"], {word: 2.0})


def test_null_is_no_text_unless_it_is_quoted(tmp_path):
    (tmp_path / "a.yaml").write_text("data:\n  init_args: {path: 'null', target: null, weight: ~, positive: 'null'}\n")
    data = parsed("--config", tmp_path / "a.yaml").data.init_args
    assert (data.path, data.target, data.weight, data.positive) == ("null", None, None, "null")
    assert parsed("--data.path", "null", "--data.weight", "null").data.init_args.weight is None


NASTY = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [*WORDS, "null", "", " a ", "--x"]
)


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(
    st.lists(NASTY, min_size=5, max_size=5), st.lists(NASTY), st.dictionaries(NASTY.filter(len), st.floats(0.1, 9))
)
@hypothesis.example(["a\x85b", "\x85", "\u2028", "\r\n", "\x85\n "], ["\x85"], {"\x85": 2.0})
def test_what_a_run_writes_reads_back_as_the_same(tmp_path_factory, texts, names, weights):
    config = parsed("--data.path", "x")
    for name, text in zip(TEXTS, texts, strict=True):
        config.data.init_args[name] = text
    config.data.init_args.features, config.model.class_weight = names, weights or None
    file = tmp_path_factory.mktemp("back") / "config.yaml"
    file.write_text(saved_text(parser(), config), encoding="utf-8")
    back = parsed("--config", file)
    assert (back.data, back.model, back.trainer) == (config.data, config.model, config.trainer)
    plain = yaml.safe_load(file.read_text(encoding="utf-8"))  # as others read it
    assert [plain["data"]["init_args"][name] for name in TEXTS] == texts


YES_NO = "x,y\n" + "".join(f"{x},{'yes' if x * 7 % 10 > 4 else 'no'}\n" for x in range(20))


def test_labels_that_yaml_takes_for_truth_values(project, run):
    """The coefficients of `no` as the positive label are those of `yes` with the signs turned."""
    (project / "a.csv").write_text(YES_NO)
    file = "data:\n  init_args: {path: a.csv, target: y, positive: POSITIVE, val_fraction: 0}\n"
    estimates = []
    for label in ("yes", "no"):
        (project / "a.yaml").write_text(file.replace("POSITIVE", label) + "model:\n  class_weight: {no: 1, yes: 1}\n")
        code, _, err = run("fit", "--config", "a.yaml", "--quiet")
        assert code == 0, err
        estimates.append(load(project / f"runs/a/version_{len(estimates)}/checkpoints/last.ckpt").coefficients["x"])
    assert estimates[1] == pytest.approx(-estimates[0], rel=1e-9)
    repeated = run("fit", "--config", "runs/a/version_1/config.yaml", "--quiet")
    assert repeated[0] == 0
    first, second = (project / f"runs/a/version_{version}/report.json" for version in (1, 2))
    assert first.read_bytes() == second.read_bytes()


def test_arguments_without_a_type_are_what_yaml_makes_of_them(tmp_path):
    text = "trainer:\n  logger:\n    class_path: MLFlowLogger\n    init_args: {tags: {a: 1, b: [no, 2.5, x]}}\n"
    (tmp_path / "a.yaml").write_text(text)
    config = parsed("--data.path", "x", "--config", tmp_path / "a.yaml")
    assert config.trainer.logger.init_args.tags == {"a": 1, "b": [False, 2.5, "x"]}


@pytest.mark.parametrize("value", ["20%", "it's", "a: b", "[1]"])
def test_a_value_of_the_data_that_is_no_number(run, value):
    code, _, err = run(
        "fit", "--data.path", ROOT / "conf/samples/exam.csv", "--data.target", "passed", "--data.val_fraction", value
    )
    assert code == 2
    assert err.startswith("error: option data.val_fraction: expected float, not ")
    assert "NestedArg" not in err
