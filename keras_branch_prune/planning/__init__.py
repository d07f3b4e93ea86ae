"""How many channels stay, from any target."""
