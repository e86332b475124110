"""The same two classes over what was captured."""
