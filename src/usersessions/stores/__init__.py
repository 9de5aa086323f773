"""What the nodes share: one process, or many."""
