"""The demo, and the loopback servers that it shares with the tests."""
