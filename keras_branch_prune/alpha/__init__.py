"""How α falls, and when."""
