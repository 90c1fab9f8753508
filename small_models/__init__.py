"""Small trained models for tests and demos, and the code that trains, evaluates and caches them."""
