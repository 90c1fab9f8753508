"""JSON Schemas, TypeScript types and documentation pages, generated from the request and payload models."""
