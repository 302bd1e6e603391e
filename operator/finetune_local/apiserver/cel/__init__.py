"""The Common Expression Language, as far as validation rules of CRDs use it."""
