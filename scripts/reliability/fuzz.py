"""Feeds every reader of outside input with bad inputs, and counts what is neither read nor refused in one sentence.

    python scripts/reliability/fuzz.py --seconds 60                 # a minute for each kind
    python scripts/reliability/fuzz.py --seconds 600 csv "--set"    # some kinds

Half of the inputs are drawn by hypothesis in the form of a good one, half are good ones with bytes changed. With the
package atheris (`pip install atheris`, Linux) both are guided by the branches they reach in this package, in PyYAML and
in gguf; without it by chance alone. An input that takes over 10 s of processor time, or two minutes, is a hang; a
process may take 4 GB of address space beyond what it begins with.
"""

import argparse
import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType

from hypothesis import HealthCheck, given, settings

SECONDS_TO_HANG = 10
"""Of processor time: a process that others starve, or that is stopped for a while, does not hang."""
MOST_SECONDS = 120
"""On the clock, for what waits without working."""
BYTES_MORE = 4 * 10**9
INSTRUMENTED = ["reptile_scaling", "yaml", "gguf"]


class Hang(BaseException):
    """An input took too long."""


class Tally:
    """Inputs of one kind and what came of them; a fault is kept once by its type and place."""

    def __init__(self, read: Callable[[bytes], object], refused: type[Exception], faults: Path | None) -> None:
        self._read, self._refused, self._folder = read, refused, faults
        self.n, self.n_refused, self.slowest = 0, 0, 0.0
        self.faults: Counter[str] = Counter()

    def __call__(self, content: bytes) -> None:
        self.n += 1
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS_TO_HANG)
        signal.alarm(MOST_SECONDS)
        try:
            self._read(content)
        except self._refused as error:
            self.n_refused += 1
            if len(str(error)) > 20_000 or "\n" in str(error):
                self._keep("a sentence of several lines or 20,000 characters", content, str(error)[:2000])
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            frames = traceback.extract_tb(error.__traceback__)
            place = next((f for f in reversed(frames) if "reptile_scaling" in f.filename), frames[-1])
            title = f"{type(error).__name__} below {Path(place.filename).name}:{place.lineno}"
            self._keep(title, content, "".join(traceback.format_exception(error))[-6000:])
        finally:
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.slowest = max(self.slowest, time.process_time() - began)

    def _keep(self, title: str, content: bytes, said: str) -> None:
        self.faults[title] += 1
        if self._folder is not None and self.faults[title] == 1:
            place = self._folder / "".join(c if c.isalnum() else "_" for c in title)
            place.mkdir(parents=True, exist_ok=True)
            (place / "input").write_bytes(content)
            (place / "traceback.txt").write_text(said, errors="replace")

    def as_json(self) -> dict[str, object]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "inputs": self.n, "refused": self.n_refused, "faults": dict(self.faults),
            "slowest_seconds": round(self.slowest, 2), "peak_memory_bytes": peak,
        }  # fmt: skip


def fuzz_one_kind(name: str, seconds: float, seed: int, folder: Path, faults: Path | None) -> Tally:
    """Runs in a process of its own; with atheris it does not return, so the tally goes to a file."""
    atheris = _atheris()
    if atheris is not None:
        with atheris.instrument_imports(include=INSTRUMENTED):
            inputs, errors = importlib.import_module("staged.inputs"), importlib.import_module("reptile_scaling.errors")
    else:
        inputs, errors = importlib.import_module("staged.inputs"), importlib.import_module("reptile_scaling.errors")
    warnings.simplefilter("ignore")
    kind = inputs.kinds_of(folder / "work")[name]
    tally = Tally(kind.read, errors.InputError, faults)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + BYTES_MORE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, _hang)

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(kind.strategy)
    def drawn(content: bytes) -> None:
        tally(content)

    ends, written = time.monotonic() + seconds, 0.0

    def one(data: bytes) -> None:
        nonlocal written
        if data[:1] < b"\x80":
            drawn.hypothesis.fuzz_one_input(data[1:])
        else:
            tally(data[1:])
        now = time.monotonic()
        if now > written + 1 or now > ends:
            (folder / "tally.json").write_text(json.dumps(tally.as_json()))
            written = now

    rng = random.Random(seed)
    starts = [b"\x80" + good for good in kind.seeds] + [b"\x00" + rng.randbytes(512) for _ in range(8)]
    for start in starts:
        one(start)
    if atheris is None:
        while time.monotonic() < ends:
            one(_changed(rng.choice(starts), rng))
        return tally
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, start in enumerate(starts):
        (corpus / str(number)).write_bytes(start)
    longest = max(4096, 2 * max(map(len, starts)))
    atheris.Setup(
        [sys.argv[0], str(corpus), f"-max_total_time={int(seconds)}", f"-seed={seed or 1}", f"-max_len={longest}",
         f"-timeout={2 * MOST_SECONDS}", "-rss_limit_mb=0", "-verbosity=0"],
        one,
    )  # fmt: skip
    atheris.Fuzz()
    return tally


def _atheris() -> ModuleType | None:
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise Hang(f"over {SECONDS_TO_HANG} s of processor time, or {MOST_SECONDS} s")


def _changed(start: bytes, rng: random.Random) -> bytes:
    """Some bytes replaced, put in, doubled or taken away; the first says how the rest is used."""
    content = bytearray(start if start[0] >= 0x80 else b"\x00" + rng.randbytes(rng.randrange(1, 1024)))
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(1, len(content)) if len(content) > 1 else 1
        end = place + rng.randrange(9)
        content[place:end] = rng.choice([rng.randbytes(rng.randrange(5)), b"", bytes(content[place:end]) * 2])
    return bytes(content)


NAMES = ("YAML", "--set", "csv", "jsonl", "parquet", "class lists", "safetensors", "adapter", "checkpoint", "model",
         "config.json", "GGUF")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"of {', '.join(NAMES)}; all of them where none is named"
    )
    parser.add_argument("--seconds", type=float, default=60, help="for each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=Path, help="folder that keeps one input of each fault")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked, words = parser.parse_known_args()
    chosen = [*asked.kinds, *words] or list(NAMES)  # `--set` looks like an option
    if asked.one:
        tally = fuzz_one_kind(chosen[0], asked.seconds, asked.seed, asked.one, asked.faults)
        (asked.one / "tally.json").write_text(json.dumps(tally.as_json()))
        return
    from staged.scratch import scratch

    print(f"guided by {'coverage (atheris)' if _atheris() else 'chance'}", flush=True)
    total: Counter[str] = Counter()
    for name in chosen:
        with scratch() as folder:
            Path(folder, "work").mkdir()
            command = [
                sys.executable,
                __file__,
                "--one",
                folder,
                "--seconds",
                str(asked.seconds),
                "--seed",
                str(asked.seed),
            ]
            command += ["--faults", str(asked.faults / name)] if asked.faults else []
            own = {**os.environ, "REPTILE_SCALING_CACHE": f"{folder}/cache"}
            done = subprocess.run([*command, name], capture_output=True, text=True, errors="replace", env=own)
            told = Path(folder, "tally.json")
            if not told.exists() or done.returncode != 0:
                print(f"{name}: the process ended with {done.returncode}: {done.stderr[-3000:]}", flush=True)
            if told.exists():
                found = json.loads(told.read_text())
                total.update(inputs=found["inputs"], faults=sum(found["faults"].values()))
                print(
                    f"{name:12} {found['inputs']:8} inputs, {found['refused']:8} refused in a sentence, slowest "
                    f"{found['slowest_seconds']:.2f} s, peak {found['peak_memory_bytes'] / 1e6:.0f} MB, faults: "
                    f"{found['faults'] or 0}",
                    flush=True,
                )
    print(f"{total['inputs']} inputs, {total['faults']} faults")


if __name__ == "__main__":
    main()
