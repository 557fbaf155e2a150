"""Fetch byte ranges of objects in buckets, on web servers and on the Hugging Face Hub, and keep them on the disk."""
