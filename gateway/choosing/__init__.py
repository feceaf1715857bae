"""Which model? For requests that leave it to a router."""
