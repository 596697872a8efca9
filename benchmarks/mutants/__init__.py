"""Damaged media files: made from whole ones, laid out as corpora, prepared and judged."""
