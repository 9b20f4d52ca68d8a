"""Starts an experiment elsewhere. Each script prints the commands and then runs them.

    python -m experiments.launch.local  --processes=2 --devices=4 -- depo --preset=smoke
    python -m experiments.launch.tpu_vm --name=a,b --zone=Z -- depo --workdir=/mnt/runs
    python -m experiments.launch.xpk    --workload=w --cluster=c --tpu_type=T --image=I -- depo ...
    python -m experiments.launch.slurm  --nodes=2 --gpus_per_node=8 -- depo ...

What follows `--` is the command line of the experiment, which does not know how it was started: a
launcher adds only how its processes find one another. `--dry_run` prints and stops.

On several slices (`--name=a,b`, `--slices=2`) each one is a launcher of the same sweep: they take
its cells one by one from the directory that they share (sleep_jax/claims.py), and a cell has the
same name and directory whoever runs it.
"""
