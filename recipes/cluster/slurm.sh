#!/bin/bash
# Train on several machines under SLURM: sbatch recipes/cluster/slurm.sh train rf --recipe rf-cifar10
# A job that runs out of time, or is preempted, saves, is queued again, and goes on where it stopped.
#SBATCH --job-name=diffcli
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@180
set -euo pipefail

DEVICES=${DEVICES:-${SLURM_GPUS_ON_NODE:-1}}
RUN=${RUN:-runs/slurm-$SLURM_JOB_ID}    # on a disk that all machines see
METHOD=${2:?usage: sbatch slurm.sh train METHOD [FLAGS]}

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
place=(--devices "$DEVICES")
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  place+=(--nodes "$SLURM_JOB_NUM_NODES" --rendezvous "$head:$((20000 + SLURM_JOB_ID % 20000))")
fi
if [ -f "$RUN/recipe.toml" ]; then
  words=(train "$METHOD" --resume "$RUN")
else
  words=("$@" --output "$RUN")
fi

again() {                               # SLURM's signal comes here: pass it on, and wait until all is saved
  kill -TERM "$step" 2>/dev/null || true
  code=0
  wait "$step" || code=$?
  [ "$code" -eq 143 ] && scontrol requeue "$SLURM_JOB_ID"
  exit "$code"
}
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" diffcli "${words[@]}" "${place[@]}" &
step=$!
trap again TERM
wait "$step"
