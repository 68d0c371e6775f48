"""Damaged and lying files by the thousand: `python -m tests.fuzz --inputs 100000 --seed 0`.

Every input is a table, a schema or a checkpoint that was fine once. Whatever becomes of it, the package may use it or
refuse it with an InputError: any other exception, a crash, a hang of ten seconds or memory above 1 GiB is a finding.
Input number i of a seed is always the same: `--first i --inputs 1` runs it again. `--engine atheris` lets atheris,
where it is installed, change the bytes instead, guided by what they reach in the code.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import multiprocessing
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

if any("atheris" in argument for argument in sys.argv[1:]):
    import atheris

    with atheris.instrument_imports(include=["lr_lightning"]):  # it looks at what an input reaches
        from lr_lightning.errors import InputError, printable
        from tests import fuzz_inputs
else:
    from lr_lightning.errors import InputError, printable
    from tests import fuzz_inputs

SECONDS = 10
MEMORY = 1 << 30  # of the process in all, torch and Arrow included
CHUNK = 1000  # inputs a process: a crash takes no more with it
TARGETS = ("tables", "schema", "checkpoint")


class Hang(BaseException):
    """Nothing may take this for an error in the input."""


def run_one(target: str, seed: int, index: int, folder: Path) -> str:
    """Make an input and use it; the outcome is `used`, `refused`, or a finding with its trace."""
    generator = random.Random(f"{seed}:{target}:{index}")  # noqa: S311
    return outcome(lambda: getattr(fuzz_inputs, target)(generator, folder))


def outcome(use) -> str:
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # where no Python code runs that could be stopped
    try:
        use()
    except InputError as error:
        if "not enough memory" in str(error) or len(str(error).splitlines()) > 1 or printable(str(error)) != str(error):
            return f"finding: {error!r}"
        return "refused"
    except (Exception, Hang):
        return f"finding: {traceback.format_exc()}"
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 > MEMORY:
        return "finding: more than 1 GiB"
    return "used"


def prepare_process() -> None:
    def ring(*_):
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    warnings.simplefilter("error")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _work(target: str, seed: int, first: int, count: int, report) -> None:
    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(first, first + count):
            report.send(("begins", index, ""))
            report.send(("ends", index, run_one(target, seed, index, Path(folder))))


def run_target(target: str, seed: int, first: int, inputs: int, most_findings: int = 300) -> Counter:
    """Count the outcomes, and print the findings."""
    context, counts, at = multiprocessing.get_context("fork"), Counter(), first
    while at < first + inputs:
        receiver, sender = context.Pipe(duplex=False)
        arguments = (target, seed, at, min(CHUNK, first + inputs - at), sender)
        worker = context.Process(target=_work, args=arguments)
        worker.start()
        sender.close()
        try:
            while True:
                what, index, result = receiver.recv()
                at = index + 1
                if what == "ends":
                    counts[result.partition(":")[0]] += 1
                    if result.startswith("finding") and counts["finding"] <= most_findings:
                        print(f"--- {target} --seed {seed} --first {index}\n{result}", flush=True)
        except EOFError:
            worker.join()
        if worker.exitcode:
            counts["finding"] += 1
            print(f"--- {target} --seed {seed} --first {at - 1}\nexit code {worker.exitcode}", flush=True)
    return counts


def run_atheris(target: str, inputs: int, seed: int) -> None:
    """Let atheris change the bytes; it stops at the first finding and writes it to a file."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, content in enumerate(fuzz_inputs.byte_seeds(target)):
            (corpus / str(number)).write_bytes(content)
        prepare_process()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # atheris has an alarm of its own

        def test_one_input(data: bytes) -> None:
            with contextlib.suppress(InputError):
                fuzz_inputs.use_bytes(target, data, Path(folder))

        options = [f"-runs={inputs}", f"-seed={seed + 1}", f"-timeout={SECONDS}", "-rss_limit_mb=1024", str(corpus)]
        atheris.Setup([sys.argv[0], *options], test_one_input)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="in all, shared among the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--engine", choices=["random", "atheris"], default="random")
    options = parser.parse_args()
    targets = options.target or TARGETS
    share, found = options.inputs // len(targets), 0
    if options.engine == "atheris":
        if len(targets) != 1:
            parser.error("atheris takes one --target")
        run_atheris(targets[0], options.inputs, options.seed)
        return 0
    fuzz_inputs.warm_up()
    for target in targets:
        counts = run_target(target, options.seed, options.first, max(1, share))
        found += counts["finding"]
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
        print(json.dumps({"target": target, **counts, "peak_mib": peak}), flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
