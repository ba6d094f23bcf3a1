"""`make fuzz`: many seeded mutations of valid files of every kind; prints counts by kind and every failure."""

import argparse
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from fuzz.kinds import PAGES, Read, valid, with_changed
from fuzz.mutations import mutated
from steerlens import SteerLensError

SECONDS = 10
MEMORY = 10**9
RARE = "model "  # a model's folder takes a second to load: a tenth of the mutations go to those


class Slow(BaseException):
    """Not an Exception, so that nobody takes it for one of theirs."""


def attempt(path: Path, content: bytes, read: Read) -> str:
    """What reading a changed file came to: "refused", "read", or what went wrong."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = with_changed(path, content, Path(folder))
        # CPU seconds: other programs on the machine are none of the file's.
        signal.signal(signal.SIGVTALRM, _stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read(changed)
            told = "read"
        except SteerLensError as error:
            told = "refused" if len(str(error)) < 5000 else f"an error of {len(str(error))} characters"
        except Slow:
            told = f"over {SECONDS} s"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error!s:.150} ({Path(where.filename).name}:{where.lineno})"
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        return told if grown < MEMORY else f"took {grown / 1e9:.1f} GB"


def _stop(*_: object) -> None:
    raise Slow


def run(
    mutations: int, seed: int, only: str = "", out: Path | None = None
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Mutations of each kind in turn; returns counts and failures. A failing file is kept in `out`."""
    counts: dict[str, Counter[str]] = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as made:
        files = {kind: found for kind, found in valid(Path(made)).items() if only in kind}
        for path, read in files.values():
            told = attempt(path, path.read_bytes(), read)
            assert told == "read", f"{path.name} as it was: {told}"
        often = [kind for kind in files if not kind.startswith(RARE)] or list(files)
        rare = [kind for kind in files if kind.startswith(RARE)] or often
        for i in range(mutations):
            kind = rare[i // 10 % len(rare)] if i % 10 == 9 else often[i % len(often)]
            path, read = files[kind]
            content = mutated(path.read_bytes(), random.Random(f"{seed} {i}"))
            told = attempt(path, content, read)
            counts.setdefault(kind, Counter())[told if told in ("read", "refused") else "FAILED"] += 1
            if told not in ("read", "refused"):
                failures.append(f"{kind}, mutation {i} of seed {seed}: {told}")
                if out is not None:
                    out.mkdir(parents=True, exist_ok=True)
                    (out / f"{seed}-{i}-{path.name}").write_bytes(content)
    return counts, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds with this in their name")
    parser.add_argument("--out", type=Path, default=None, help="a folder for the files that failed")
    asked = parser.parse_args()
    PAGES["are drawn"] = True
    logging.disable(logging.WARNING)
    start = time.monotonic()
    counts, failures = run(asked.mutations, asked.seed, asked.only, asked.out)
    width = shutil.get_terminal_size().columns
    print(f"{'kind':34} {'read':>6} {'refused':>8} {'FAILED':>7}")
    for kind, count in counts.items():
        print(f"{kind:34} {count['read']:6} {count['refused']:8} {count['FAILED']:7}")
    for failure in failures:
        print(failure[: max(width, 200)])
    print(f"{asked.mutations} mutations, {len(failures)} failures, {time.monotonic() - start:.0f} s, seed {asked.seed}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
