"""The delivery of results: uploads to storage, callbacks to the receiver, and an outbox that retries both: at least once, idempotent."""
