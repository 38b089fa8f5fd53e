#!/bin/bash
# Four machines of eight GPUs, colocated: every GPU trains and samples in turn.
#   sbatch examples/scale/slurm.sh train.yaml my-run
# Submit it again with the same arguments to go on from the last checkpoint. Not run here: there is no cluster.
#SBATCH --job-name=agent-gym
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
# Asks for a signal two minutes before the end: the run then keeps its last step.
#SBATCH --signal=TERM@120
set -euo pipefail

config=$1
name=$2
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export HEAD_NODE=$head_node
# torch's launcher hands the signal on, and kills after 30 s what has not ended by then: not before the step is done.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110
# Options that do not exist, lengths, adapters and missing packages show before 32 GPUs wait for them.
agent-gym train --config "$config" --dry-run

srun --kill-on-bad-exit=1 bash -c "accelerate launch \
    --config_file examples/scale/four_nodes.yaml \
    --machine_rank \$SLURM_NODEID \
    --main_process_ip \$HEAD_NODE \
    --main_process_port 29500 \
    -m agent_gym train --config $config --name $name --resume"
