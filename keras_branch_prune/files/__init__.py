"""Files from strangers, read without running them, and files that are written whole or not at all."""
