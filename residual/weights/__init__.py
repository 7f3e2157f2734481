"""Files of weights: ours, with everything needed to use them, and other people's, translated at the door."""
