"""Builds the pages of the documentation site that are made from the program itself: mkdocs.yml calls `hooks.py`."""
