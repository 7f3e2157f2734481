"""Named descriptions of a run, with the claim on top."""
