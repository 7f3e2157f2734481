"""From the paper's tables and figures to trainings, and from trainings to verdicts."""
