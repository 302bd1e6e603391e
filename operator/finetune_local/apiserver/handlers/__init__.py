"""HTTP requests: from a route to the operation that it asks for, and to its answer."""
