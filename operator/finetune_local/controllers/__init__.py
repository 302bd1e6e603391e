"""The local cluster's Job controller."""
