"""Readers of tables: CSV and similar formats, parquet, JSON, COCO captions."""
