"""The command line: ``notebook-accel launch | config | env | test``. It never imports torch."""
