"""One reader per dataset; all readers yield the same Sample.

A new reader implements sample.Dataset to be packed, and sample.Recording to be inspected and
verified.
"""
