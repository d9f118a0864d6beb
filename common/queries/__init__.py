"""The statements of the exchange, built and compiled once. Each says in which index it lives.

A module for each purpose: a connection prepares those of the modules that its program imports.
"""
