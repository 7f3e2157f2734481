"""Boxes and masks on images: what is where, and how well that was found."""
