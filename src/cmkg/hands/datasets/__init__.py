"""One file per dataset; all yield the same Sample.

What a new one has: sample.Dataset, to be packed; sample.Recording, to be inspected and verified.
"""
