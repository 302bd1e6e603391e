"""How models are measured: one module per kind of metric, and the goals that figures are held to."""
