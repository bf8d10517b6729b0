"""Data sets, their class splits, and the tasks drawn from them; no model, no torch."""
