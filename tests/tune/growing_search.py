"""`python growing_search.py OUT`: a search on a cluster that has no place for a trial, until a machine comes."""

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import ray
from counting_search import search
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from ensemble_tune.tune.resources import Resources
from ensemble_tune.tune.workers import Workers

out = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
whole = search(out, 4, 3, 0.05)
whole = replace(whole, workers=Workers(Resources(cpus=1, gpus=0), cluster.address, slots=2))
running = threading.Thread(target=whole.run)
running.start()
time.sleep(5)
print("before:", len(list(out.glob("checkpoints/*/attempt-*"))))
print("asked for:", len(placement_group_table()))
cluster.add_node(num_cpus=2)
running.join(90)
print("ended:", not running.is_alive(), flush=True)
ray.shutdown()
cluster.shutdown()
