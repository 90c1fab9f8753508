"""Qwen: chat and prompt enhancement."""
