"""One file per dataset; all yield the same Sample. A dataset here has three methods:

len(dataset)              how many samples
dataset.samples(indices)  list of Sample; each depends on its index alone
dataset.describe()        what it is, as plain JSON: two that describe alike hold the same samples
"""
