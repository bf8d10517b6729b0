"""The folder of a run: the only place that knows file names and the fields of what is written. No torch."""
