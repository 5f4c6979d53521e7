"""Test utilities and tools that every project shares. No deliverable imports this package."""
