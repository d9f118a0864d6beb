"""The write-ahead log: what was accepted is on disk before anybody hears of it."""
