"""The statements of the exchange, built and compiled once. Each says in which index it lives."""
