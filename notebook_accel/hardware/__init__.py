"""What this machine has to compute on, found without starting any runtime."""
