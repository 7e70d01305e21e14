"""From pictures to joints: network inputs, the network, its loss."""
