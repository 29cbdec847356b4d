"""A network as a list of operators, evaluated again with some channels off."""
