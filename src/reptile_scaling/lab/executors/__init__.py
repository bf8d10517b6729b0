"""Where a sweep's jobs are performed. A new executor is a file here and an entry in EXECUTORS."""

from reptile_scaling.lab.executors.executor import Assignment, Executor
from reptile_scaling.lab.executors.local import on_this_machine
from reptile_scaling.lab.executors.ray import on_a_ray_cluster
from reptile_scaling.lab.executors.slurm import on_slurm

__all__ = ["EXECUTORS", "Assignment", "Executor"]

EXECUTORS = {
    "local": Executor(on_this_machine),
    "ray": Executor(on_a_ray_cluster, finds_devices=True),
    "slurm": Executor(on_slurm, finds_devices=True),
}
