"""Attention that one can touch: one front end for a file, a notebook and a browser over the data folder."""
