"""A trained network looked at: test protocols, scores, errors with their uncertainty, and why numbers differ."""
