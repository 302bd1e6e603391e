"""The training loop, in parts: what is learned when (plan), on what (batches), and how (optimizers, loop)."""
