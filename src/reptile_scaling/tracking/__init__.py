"""Trackers: what a run's folder says, told to TensorBoard, W&B, MLflow and the others that accelerate knows.

A tracker reads what lies in the folder and trains nothing: each cell has a process of its own beside the training,
which tells all of its trackers. One that hangs, crashes or keeps one run a process costs no cell and holds none up.
"""
