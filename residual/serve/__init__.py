"""A trained network at work: predictions."""
