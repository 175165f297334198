"""Experiment trackers: one small class for each service."""
