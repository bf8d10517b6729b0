"""The frozen language model, and the small trainable parts of many tasks at once."""
