"""The optional features of a WAN request, each configured on the pipeline for one job."""
