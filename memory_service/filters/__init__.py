"""The filter grammar, its SQL and its candidate ids. It does not know vectors or ranking."""
