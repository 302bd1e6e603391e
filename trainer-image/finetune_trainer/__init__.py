"""The trainer: one stage per process, from its inputs to its published output."""
