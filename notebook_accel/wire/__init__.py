"""What the kernel and its ranks say to each other: plain data, no torch, no behaviour."""
