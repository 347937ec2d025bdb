"""`python counting_run.py OUT TRIALS EPOCHS SECONDS`: a search of a plain trial, on the cluster that it is a job of.

Half a GPU and half a CPU a trial, so that two run on each host.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

from counting_search import search

from ensemble_tune.tune.interrupts import Interrupted
from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.workers import Workers

logging.basicConfig(level=logging.INFO)
out, trials, epochs, seconds = sys.argv[1:]
Path(out).mkdir(parents=True, exist_ok=True)
whole = search(Path(out), int(trials), int(epochs), float(seconds))
try:
    replace(whole, workers=Workers(Resources(cpus=0.5, gpus=0.5))).run()
except Interrupted:
    sys.exit(130)
