"""Rows of numbers that took long to make (features, decoded images), kept in the cache by the hash of what each is of."""
