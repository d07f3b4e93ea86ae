"""What every other folder needs: checks of arguments, the backend, disjoint sets, tables."""
