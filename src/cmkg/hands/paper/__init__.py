"""The paper's experiments: presets, data sets, runs and the comparison with the paper."""
