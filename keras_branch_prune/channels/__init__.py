"""Channels as data: how groups make up an axis, how they are tracked, how maps meet kernels."""
