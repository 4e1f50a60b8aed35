#!/usr/bin/env bash
# bcgan on several nodes under Slurm, one worker a node. The checkout lies on a file system that all nodes see.
#     EXPERIMENT=idc DATA_DIR=/path/to/archive.zip sbatch --nodes=4 pipelines/cluster/slurm.sh
# A job that was killed, or lost a node, is submitted again: it goes on from the last checkpoint.
#SBATCH --job-name=bcgan
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
set -euo pipefail
PORT=${PORT:-29500}
workers=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&:$PORT\"/" | paste -sd,)
export EXPERIMENT=${EXPERIMENT:-phantom} DATA_DIR=${DATA_DIR:-} workers
srun --kill-on-bad-exit=1 bash -c '
export TF_CONFIG="{\"cluster\": {\"worker\": [$workers]}, \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
exec .venv/bin/bcgan run "$EXPERIMENT" ${DATA_DIR:+--data-dir "$DATA_DIR"}'
