"""Pictures of what each parameter does, for the handlers' pages."""
