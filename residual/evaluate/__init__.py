"""A trained network looked at: scores, errors with their uncertainty, calibration."""
