"""What the parts of the cases cost in memory and time, and how that grows with the size."""
