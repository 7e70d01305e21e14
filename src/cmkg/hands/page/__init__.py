"""The web page that finds hands in the visitor's own browser: its files, and what writes them."""
