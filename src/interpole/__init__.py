"""Interpolate between an Instruct and a Thinking checkpoint of one model family."""
