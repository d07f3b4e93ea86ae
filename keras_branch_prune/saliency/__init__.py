"""Which channels are worth most."""
