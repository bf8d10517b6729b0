"""How few-shot performance of a language model scales with the number of meta-training tasks."""

__version__ = "0.1.0"
