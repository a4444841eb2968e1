"""`make fuzz`: so many spoilt chunks, or so long, on one core. Prints a violation's seed, which alone brings it back.

With `--atheris` the coverage-guided fuzzer looks instead (an optional package: `pip install atheris`).
"""

import argparse
import random
import resource
import sys
import time
import traceback

from fuzz.bodies import bodies
from fuzz.checks import check

BODIES_A_SEED = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--chunks", type=int, default=1_000_000, help="how many chunks to feed  [1000000]")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long at most")
    parser.add_argument("--seed", type=int, default=1, help="first seed  [1]")
    parser.add_argument("--atheris", action="store_true", help="let atheris choose the bytes")
    chosen, rest = parser.parse_known_args()
    return _with_atheris(rest) if chosen.atheris else _run(chosen.chunks, chosen.seconds, chosen.seed)


def _run(wanted: int, seconds: float, seed: int) -> int:
    begun_s, chunks, done, violations = time.monotonic(), 0, 0, 0
    while chunks < wanted and time.monotonic() - begun_s < seconds:
        fed, wrong = run_seed(seed)
        chunks, done, violations, seed = chunks + fed, done + BODIES_A_SEED, violations + wrong, seed + 1
    took_s = time.monotonic() - begun_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{chunks:,} chunks of {done:,} bodies in {took_s:.0f} s, {violations} violations; peak memory {peak_mib:.0f} MiB"
    )
    return 1 if violations else 0


def run_seed(seed: int, most: int = BODIES_A_SEED) -> tuple[int, int]:
    """Chunks fed, and violations found, by the bodies of one seed."""
    chance, chunks, violations = random.Random(seed), 0, 0
    spoilt = bodies(chance)
    for number in range(most):
        try:
            chunks += check(chance, next(spoilt))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            violations += 1
            print(f"seed {seed}, body {number}:", file=sys.stderr)
            traceback.print_exc()
    return chunks, violations


def _with_atheris(arguments: list[str]) -> int:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: .venv/bin/python -m pip install atheris", file=sys.stderr)
        return 2

    def one(data: bytes) -> None:
        check(random.Random(len(data)), data)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
