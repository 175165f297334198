"""The processes below the kernel: one zygote, a supervisor per run, its ranks. torch lives here."""
