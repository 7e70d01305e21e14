"""The hand network as a plain one: a tensor of joints comes out, as other libraries expect it."""

from __future__ import annotations

from torch import Tensor, nn

from cmkg.hands.network.posenet import NetConfig, pose_net


class JointsNet(nn.Module):
    """(B, C, px, px) to (B, 21, 3). `feature_layers` names the four residual stages."""

    def __init__(self, backbone: str, width: float, channels: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.net = pose_net(NetConfig(backbone, width), channels, seed)
        self.feature_layers = [f"net.{layer}" for layer in self.net.feature_layers]

    def forward(self, x: Tensor) -> Tensor:
        """Joints."""
        return self.net(x).joints
