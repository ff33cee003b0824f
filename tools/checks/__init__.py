"""The steps of tools/gpu_check.py, and what runs them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Of the repository."""
