"""Release a set of synthetic patches with an audit of what it gives away and of what it is worth."""
