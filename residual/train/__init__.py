"""The network meets the images: loop, schedule, optimizer, precision, averages, checkpoints, several processes."""
