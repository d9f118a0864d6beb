"""The harness: traffic, load generator, audit, records and charts."""
