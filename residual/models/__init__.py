"""Tensors in, tensors out: the networks, and what they cost."""
