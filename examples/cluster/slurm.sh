#!/bin/bash
# The paper's run on four nodes of a Slurm cluster:  sbatch examples/cluster/slurm.sh
# Sent again after its time is up, it continues. The nodes need the package with the extra `ray` in $VENV.
#SBATCH --job-name=worldmodels
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --constraint=genoa
#SBATCH --time=04:00:00
#SBATCH --signal=B:INT@120
# --constraint: processors of one kind, whatever yours is called, so that all compute the same bits.
set -euo pipefail
set -m # else what runs in the background ignores Ctrl-C, and cannot be told to stop

VENV=${VENV:-$HOME/venv}
LOGDIR=${LOGDIR:-$PWD/exp_dir}
PORT=6379
# shellcheck disable=SC1091
source "$VENV/bin/activate"

RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))') # of this job alone
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
head=$(hostname)
address=$(hostname --ip-address | cut -d ' ' -f 1)
temporary=$(mktemp -d /tmp/ray.XXXXXX)

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    ray start --head --block --node-ip-address "$address" --port $PORT --num-cpus "$SLURM_CPUS_PER_TASK" \
    --include-dashboard false --temp-dir "$temporary" &
ray=$!
until (echo > "/dev/tcp/$address/$PORT") 2> /dev/null; do
    kill -0 $ray # ends this script if the head does not start
    sleep 1
done
if ((SLURM_JOB_NUM_NODES > 1)); then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
        ray start --block --address "$address:$PORT" --num-cpus "$SLURM_CPUS_PER_TASK" &
fi

# V and M train on this node, a process per four cores or more; then all cores of all nodes drive.
worldmodels run --preset paper --logdir "$LOGDIR" --ray "$address:$PORT" &
run=$!
trap 'kill -INT $run' INT
wait $run || wait $run # the second time after a signal: until what was finished is kept
