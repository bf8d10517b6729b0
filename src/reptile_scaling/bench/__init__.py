"""Slow, obvious twins of the engine, and the measurements against them."""
