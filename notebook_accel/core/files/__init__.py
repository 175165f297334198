"""Files of tensors and plain data: written so that they are on the disk, read without running code."""
