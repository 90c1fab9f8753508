"""A local RunPod: the public API of its serverless endpoints on one side, its job API for workers on the other."""
