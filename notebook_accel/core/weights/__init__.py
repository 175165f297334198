"""Weights of a model on their own: files that any library of the field reads."""
