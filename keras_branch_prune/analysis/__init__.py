"""What of a model can be narrowed, what that would cost, and the plan as a value."""
