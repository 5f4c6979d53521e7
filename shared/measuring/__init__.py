"""Benchmarks, demos, and the pages that are generated from what they measured."""
