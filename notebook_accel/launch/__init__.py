"""The kernel's side of a run: plan it, start it, follow it, hand back its results. torch is never imported here."""
