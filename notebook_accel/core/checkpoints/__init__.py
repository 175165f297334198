"""Checkpoints: what is in them, how they reach the disk as a whole or not at all, and how a run goes on from one."""
