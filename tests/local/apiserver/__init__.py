"""Tests of the stand-in API server; a package, so that they can share `support`."""
