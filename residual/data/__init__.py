"""Images, labels, boxes and masks become batches."""
