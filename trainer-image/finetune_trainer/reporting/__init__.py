"""The report of a finished run: what its stages left in the store, as one page that needs nothing beside it."""
