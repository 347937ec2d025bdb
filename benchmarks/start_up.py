"""How long help and results take to come: whole processes, beside a Python that does nothing.

python benchmarks/start_up.py RUN [ROUNDS]

RUN is the folder of a finished run or search.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "ensemble-tune --help": ["-m", "ensemble_tune", "--help"],
    "ensemble-tune results RUN": ["-m", "ensemble_tune", "results"],
}


def main(run: str, rounds: int) -> None:
    """Prints a row a command."""
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, words in COMMANDS.items():
            line = [sys.executable, *words, *([run] if words[-1] == "results" else [])]
            started = time.perf_counter()
            subprocess.run(line, stdout=subprocess.DEVNULL, check=True)
            if number:  # the first one reads the files from the disk
                took[name].append(time.perf_counter() - started)
    print("seconds                     median  least  most")
    for name, own in took.items():
        print(f"{name:26}  {statistics.median(own):6.2f} {min(own):6.2f} {max(own):6.2f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
