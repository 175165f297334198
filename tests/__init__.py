"""Its name wins over a folder `tests` that another package has put on the path (IPython 7 does)."""
