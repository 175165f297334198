"""What runs inside a rank: the ``Accelerator`` and the parts that it delegates to."""
