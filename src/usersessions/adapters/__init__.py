"""One module for each framework; importing it needs that framework, and no other."""
