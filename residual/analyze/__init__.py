"""What a trained network does inside."""
