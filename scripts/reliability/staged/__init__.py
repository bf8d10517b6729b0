"""The stage of the scripts beside it and of the tests: a sweep that takes a second, and disks that fail on purpose."""
