"""Pruners, which stop or pause weak trials."""
