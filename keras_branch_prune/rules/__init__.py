"""What every layer does to channels: one table, and the kinds of rules in it."""
