"""How ranks talk to each other: one ``Backend`` object per process, chosen in ``registry``."""
