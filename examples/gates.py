"""Draw how the learned gates of trained weights are distributed, as the paper's Fig. 3 does. Needs matplotlib.

python examples/gates.py [MODEL]
"""

import sys

import matplotlib
import torch

from softgate_pose import create_model, list_pretrained

matplotlib.use("agg")
from matplotlib import pyplot

name = sys.argv[1] if len(sys.argv) > 1 else list_pretrained()[0]
model = create_model(name, pretrained=True)
gates = torch.cat([value.flatten() for key, value in model.named_parameters() if key.endswith("alpha")])

figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
axes.hist(gates.tolist(), bins=81, color="#00a8ff")
axes.axvline(0, color="#b0b0b0", linewidth=0.8)  # a gate that is shut
axes.set(xlabel="gate (one per channel of each block)", ylabel="gates", title=name)
figure.savefig("gates.png", dpi=110)

near = (gates.abs() <= 0.1).float().mean()
print(
    f"{name}: {len(gates)} gates, mean {gates.mean():.3f}, standard deviation {gates.std():.3f}, "
    f"{near:.0%} within 0.1 of 0."
)
