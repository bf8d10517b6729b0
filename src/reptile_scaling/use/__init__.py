"""A trained adapter at work on labels of one's own."""
