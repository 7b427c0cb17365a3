"""The networks, an architecture a file, and what is done to them as a whole: deploy, adapt, grow."""
