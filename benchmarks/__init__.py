"""Timings and ratios; nothing here is a test."""
