"""`python screened_search.py OUT TRIALS EPOCHS SECONDS`: a search of a plain trial, with the command line's screen."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from counting_search import search

from ensemble_tune.cli_output import choose_reporter, close_reporter
from ensemble_tune.tune.interrupts import Interrupted

if __name__ == "__main__":
    out, trials, epochs, seconds = sys.argv[1:]
    reporter = choose_reporter(Path(out))
    plain = search(Path(out), int(trials), int(epochs), float(seconds))
    Path(out).mkdir(exist_ok=True)
    try:
        replace(plain, watcher=reporter, say=reporter.say).run()
    except Interrupted:
        sys.exit(130)
    finally:
        close_reporter()
