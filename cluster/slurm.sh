#!/usr/bin/env bash
# Slurm: a Ray cluster for one search, on several nodes; requeued before the wall time, it goes on.
#
#   ensemble-tune cluster check cluster/slurm.sh
#   sbatch cluster/slurm.sh                                (see cluster/README.md)
#
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
# ---------------------------------------------------------------------------------------- edit from here ...
#SBATCH --job-name=ensemble-tune
#SBATCH --nodes=4
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --output=ensemble-tune-%j.log
shared=EDIT                               # a folder that all nodes see: the data, the runs, and the environment
search=(ensemble-tune run --data "$shared/CamVid" --out "$shared/runs/camvid" --cache "${TMPDIR:-/tmp}/ensemble_tune"
    --gpus-per-trial 0.5 --address auto)
# ... to here. The environment is $shared/venv, made on a node with internet: see cluster/README.md.
# ----------------------------------------------------------------------------------------------------------
set -euo pipefail
export PATH="$shared/venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 HF_HUB_OFFLINE=1

# The token: on the shared home, so that every node has it; its owner's alone, and in no command line.
(umask 077 && mkdir -p ~/.ray && { [ -s ~/.ray/auth_token ] || ray get-auth-token --generate > /dev/null; })
chmod 600 ~/.ray/auth_token

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 10000))    # jobs of others may run on the same nodes before and after

# Two minutes before the wall time, or when the job is preempted: the search ends in order, and the job is queued again.
requeued=
asked=
end() {
    asked=yes
    if [ -n "${run:-}" ]; then kill -TERM "$run" 2>/dev/null || true; fi
}
trap 'requeued=yes; end' USR1             # then: scontrol requeue
trap end TERM INT
leave() {
    if [ -n "$requeued" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
    exit "$1"
}

start=(ray start --disable-usage-stats --block --num-cpus "$SLURM_CPUS_PER_TASK")
srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
    "${start[@]}" --head --node-ip-address="$head" --port="$port" --dashboard-host=127.0.0.1 &
patience=${PATIENCE:-300}                 # seconds that Ray's head may take
until srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
    timeout 30 ray status --address "$head:$port" > /dev/null 2>&1; do
    if [ -n "$asked" ]; then leave 130; fi
    if [ "$SECONDS" -ge "$patience" ]; then
        echo "error: Ray's head must answer on $head, but has not for $patience s; see its own words above" >&2
        exit 1
    fi
    sleep 2
done
if [ "${#nodes[@]}" -gt 1 ]; then
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --overlap --exclude="$head" \
        "${start[@]}" --address="$head:$port" &
fi

RAY_ADDRESS="$head:$port" "${search[@]}" &
run=$!
if [ -n "$asked" ]; then end; fi
# A trapped signal ends `wait` early: it waits again for the search's own end.
while :; do
    if wait "$run"; then status=0; else status=$?; fi
    kill -0 "$run" 2>/dev/null || break
done
leave "$status"
