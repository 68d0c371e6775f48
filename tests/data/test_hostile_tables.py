"""Tables that are damaged, larger than they look, or named to do harm."""

import bz2
import gzip
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lr_lightning.data.schema import TableSchema
from tests.conftest import ROOT
from tests.data.conftest import fitted, refusal
from tests.fuzz_inputs import checkpoint_of

ROWS = "".join(f"{i % 7},{i % 3},{i % 2}\n" for i in range(60))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,y\n1,\0,0\n2,3,1\n", "NUL"),
        ('a,b,y\n1,"2,0\n2,3,1\n', "never closed"),
        (("a,b,y\n" + ROWS).encode() + b"\xe4,1,0\n", "UTF-8"),
        ("a,b,y\n1,2\n", "fields"),
        ("a,a,y\n1,2,0\n", "both named a"),
        ("a,b,y\n1,2,0\n" + '3,"' + "x" * 3_000_000 + '",1\n', "a row is very long"),
        ("x" * 20_000_000, "longer"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (gzip.compress(b"a,b,y\n" + ROWS.encode())[:-20], "truncated"),
        (bz2.compress(b"a,b,y\n" + ROWS.encode())[:-9], "truncated"),
        (b"PAR1" + bytes(200) + b"PAR1", "Parquet"),
        (b"ARROW1\0\0" + bytes(200) + b"ARROW1", "Arrow"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(20), "Arrow"),
    ],
    ids=[
        *(
            "NUL",
            "open quote",
            "two encodings",
            "short row",
            "double name",
            "huge field",
            "huge line",
            "zip",
            "cut gzip",
        ),
        *("cut bz2", "hollow Parquet", "hollow Arrow", "Arrow stream of 2 GiB"),
    ],
)
def test_a_broken_file_is_refused_by_name(write, text, words):
    assert words in refusal(write("t.csv", text))


def test_arrow_offsets_that_lead_out_of_the_file(tmp_path):
    """Arrow itself would follow them; found by fuzzing."""
    path = tmp_path / "t.arrow"
    table = pa.table({"s": ["aa", "bb", "cc", "dd"], "y": [0, 1, 0, 1]})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    content = path.read_bytes()
    offsets = np.array([0, 2, 4, 6, 8], np.int32).tobytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, np.array([0, 2, 2**30, 6, 8], np.int32).tobytes()))
    assert "damaged" in refusal(str(path))


def test_a_parquet_file_whose_names_are_no_text(tmp_path):
    """Found by fuzzing."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"name": [1.0, 2.0], "y": [0, 1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"name", b"n\xa4me"))
    assert "damaged" in refusal(str(path))


def test_a_parquet_file_that_claims_more_rows_than_it_has(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"a": np.arange(90.0), "y": np.arange(90) % 2})
    pq.write_table(table, path, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    footer = slice(len(content) - 8 - length, len(content) - 8)
    # 90 as Thrift writes it (zigzag), where the footer first has the number of rows.
    content[footer] = content[footer].replace(b"\xb4\x01", b"\xfe\x7f", 1)
    path.write_bytes(content)
    assert "claims 8191 rows and holds 90" in refusal(str(path))


NAMES = [
    "=1+1",
    "../../x",
    "<script>alert(1)</script>",
    "$\\frac{",
    "a$b$c",
    "\x1b[2J",
    "na\nme",
    "\u202eabc",
    "%s{}",
    "s" * 5000,
]


def test_odd_names_are_only_names(project, run):
    """They reach the report, the pictures, TensorBoard and the terminal, and do nothing there."""
    columns = {name: np.random.default_rng(j).normal(size=40) for j, name in enumerate(NAMES)}
    pq.write_table(pa.table({**columns, "y": np.arange(40) % 2}), project / "t.parquet")
    code, _, err = run("fit", "--data.path", "t.parquet", "--data.target", "y", "--model.l2", "1")
    assert code == 0, err
    checkpoint = "runs/t/version_0/checkpoints/last.ckpt"
    code, out, _ = run("report", "--ckpt_path", checkpoint)
    assert code == 0
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    code, out, err = run("predict", "--ckpt_path", checkpoint, "--data.path", "t.parquet", "--id", "=1+1")
    assert code == 0, err
    assert out.startswith("=1+1,probability,prediction\n")  # raw data: a program that reads it must not calculate
    assert sorted(path.name for path in project.parent.glob("x*")) == []


def test_messages_are_printable_and_short(write):
    message = refusal(write("t.csv", 'a,"\x1b]0;owned\x07",y\nx,2,0\nx,\x1b[31m,1\n'), target="z")
    assert "\x1b" not in message
    assert "\\x1b]0;owned" in message
    assert len(refusal(write("t.csv", "a," + "b" * 100_000 + ",y\n1,2,0\n"), target="z")) < 2500


def test_very_many_columns(tmp_path):
    """Work that grows with the square of their number would take minutes already."""
    names = [f"c{j}" for j in range(30_000)]
    path = tmp_path / "wide.csv"
    rows = [",".join(["1"] * len(names) + ["0"]), ",".join(["2"] * len(names) + ["1"])] * 2
    path.write_text(",".join([*names, "y"]) + "\n" + "\n".join(rows) + "\n")
    data = fitted(str(path))
    assert data.train_rows.x.shape == (4, 30_000)
    assert "did you mean c5?" in refusal(str(path), features=["C5"])


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not say what a process has taken")
def test_a_compressed_table_takes_no_more_memory_than_some_blocks(tmp_path):
    """64 MiB of rows of two bytes in 64 KiB: as numbers in memory they take 512 MiB, and again for each copy."""
    with gzip.open(tmp_path / "bomb.csv.gz", "wb", compresslevel=6) as file:
        file.write(b"a\n")
        for _ in range(64):
            file.write(b"1\n" * (1 << 19))
    code = """
from pathlib import Path
from lr_lightning.data.encode import encode_blocks
from lr_lightning.data.schema import TableSchema
blocks = encode_blocks(TableSchema.of_numbers(["a"], "y"), "bomb.csv.gz")
assert sum(len(block.x) for block in blocks) == 1 << 25
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) << 10 < 1 << 30


def test_a_header_alone_predicts_a_header_alone(project, run):
    torch.save(checkpoint_of(TableSchema.of_numbers(["a"], "y")), project / "some.ckpt")
    for name, write in (("t.csv", lambda path: path.write_text("a,id\n")), ("t.parquet", _empty_parquet)):
        write(project / name)
        code, out, err = run("predict", "--ckpt_path", "some.ckpt", "--data.path", name, "--id", "id")
        assert (code, out) == (0, "id,probability,prediction\n"), err


def _empty_parquet(path):
    pq.write_table(pa.table({"a": pa.array([], pa.float64()), "id": pa.array([], pa.string())}), path)


class TestLinks:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "in" / ".store").mkdir(parents=True)
        (tmp_path / "out").mkdir()
        for path in ("in/a.csv", "in/.store/b.csv", "out/secret.csv"):
            (tmp_path / path).write_text("a,b,y\n" + ROWS)
        return tmp_path / "in"

    def test_within_the_folder_are_followed(self, folder):
        (folder / "b.csv").symlink_to(".store/b.csv")
        assert len(fitted(str(folder)).train_rows.y) == 120

    def test_the_folder_itself_may_be_one(self, folder):
        (folder.parent / "link").symlink_to(folder)
        assert len(fitted(str(folder.parent / "link")).train_rows.y) == 60

    @pytest.mark.parametrize("target", ["../out/secret.csv", "/etc/passwd", "c.csv"])
    def test_out_of_it_are_refused(self, folder, target):
        if target == "c.csv":  # by way of another link
            (folder / "_hidden").symlink_to("../out")
            target = "_hidden/secret.csv"
        (folder / "b.csv").symlink_to(target)
        assert "in/b.csv is a link that leaves the folder" in refusal(str(folder))

    def test_to_nowhere_and_in_circles_are_refused(self, folder):
        link = folder / "b.csv"
        for target in ("gone.csv", "b.csv"):
            link.symlink_to(target)
            assert "in/b.csv is a link that leads nowhere" in refusal(str(folder))
            link.unlink()

    def test_do_not_count_rows_twice(self, folder):
        (folder / "b.csv").symlink_to("a.csv")
        assert "a.csv and b.csv are one file" in refusal(str(folder))

    def test_folders_within_are_no_part(self, folder):
        (folder / "c.csv").symlink_to(folder / ".store")
        assert len(fitted(str(folder)).train_rows.y) == 60
