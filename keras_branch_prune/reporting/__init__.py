"""What people look at before and after: explanations, sensitivities, pictures."""
