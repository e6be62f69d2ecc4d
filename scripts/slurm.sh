#!/usr/bin/env bash
# Training on a SLURM cluster, by torchrun on every node; goes on by itself after preemption and after the time limit.
#
#   sbatch --nodes 4 --gpus-per-node 8 scripts/slurm.sh dinov2_vits14 data.path=/data/images run.dir=/runs/first
#
# The words are those of `dinolab train`. run.dir must be on a file system that all nodes see.
#SBATCH --job-name=dinolab
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -u

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
gpus=${SLURM_GPUS_ON_NODE:-1}

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150 # seconds that torchrun gives the ranks to save
srun --cpus-per-task "${SLURM_CPUS_PER_TASK:-1}" torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$gpus" --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d \
    --rdzv-endpoint "$first:${MASTER_PORT:-29500}" -m dinolab train "$@" &
step=$!

# The time is nearly up (USR1), or the job is preempted or cancelled (TERM): every rank saves and ends. In the first case the job
# puts itself into the queue again; what is preempted SLURM puts there by itself.
again=0
stop() {
    scancel --signal=TERM "$SLURM_JOB_ID" # to the steps, not to this script; srun itself would kill them at once
}
trap 'again=1; stop' USR1
trap stop TERM

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
