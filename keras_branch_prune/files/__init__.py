"""Files from strangers, read safely, and files that are written whole or not at all."""
