"""Every demo on one page."""
