"""The lab: from a configuration to a finished run. Plans the grid, runs its jobs somewhere, shows how far they are."""
