"""What differs from kind to kind: decoding, defaults, validation, deletion."""
