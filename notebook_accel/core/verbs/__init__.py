"""What an ``Accelerator`` can do, in groups; each verb delegates to the module of ``core`` that knows it."""
