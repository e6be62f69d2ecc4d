#!/usr/bin/env bash
# Trains on a SLURM cluster, by torchrun on every node. The job continues by itself after a
# preemption and after the time limit.
#
#   sbatch --nodes 4 --gpus-per-node 8 scripts/slurm.sh dinov2_vits14 data.path=/data/images run.dir=/runs/first
#
# The words after the script are those of `dinolab train`. All nodes must see the folder run.dir.
#
# As an array it does the runs of a grid, one in each job of the array:
#
#   sbatch --array 1-27 --gpus-per-node 1 scripts/slurm.sh ablations data.path=/data/images out=/runs/grid
#
# The words are then those of `dinolab grid`, and the array has as many jobs as the grid has rows times seeds.
#
# With `curate` as the first word, the jobs of an array, or the processes of several nodes, share a stage of curation:
#
#   sbatch --array 0-31 scripts/slurm.sh curate dedup /data/sets/heap
#SBATCH --job-name=dinolab
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -u

verb=train
if [ "$1" = curate ]; then
    verb=curate
    shift
fi
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
gpus=${SLURM_GPUS_ON_NODE:-1}

# Shortly before the time limit SLURM sends USR1; it sends TERM when it preempts or cancels the job.
# In both cases every process saves and ends. After USR1 this script puts the job back into the queue;
# after a preemption SLURM does that itself.
again=0
stop() {
    scancel --signal=TERM "$SLURM_JOB_ID" # to the steps; a TERM to srun itself would kill them at once
}
trap 'again=1; stop' USR1
trap stop TERM

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150 # seconds that the processes have to save
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ] && [ "$verb" = curate ]; then
    command=(python -m dinolab curate "$@")
elif [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    command=(python -m dinolab grid "$@" "task=$SLURM_ARRAY_TASK_ID")
else
    command=(torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$gpus" --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d
        --rdzv-endpoint "$first:${MASTER_PORT:-29500}" -m dinolab "$verb" "$@")
fi
srun --cpus-per-task "${SLURM_CPUS_PER_TASK:-1}" "${command[@]}" &
step=$!

wait "$step"
status=$?
while kill -0 "$step" 2>/dev/null; do # a trapped signal ends `wait` early
    wait "$step"
    status=$?
done
if [ "$again" = 1 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
