"""Programs for a person: the demo and its callback receiver."""
