"""Uploads: the sessions, and the spools that keep their bytes until an import."""
