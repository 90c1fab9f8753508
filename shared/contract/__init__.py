"""The contract with callers: requests, payloads, and the messages about invalid requests. Depends on pydantic only."""
