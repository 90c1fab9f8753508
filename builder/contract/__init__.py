"""Generates JSON Schemas, TypeScript types and documentation pages from the contract."""
