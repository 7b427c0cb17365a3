"""The network: soft-gated blocks, the hourglass built of them, and the stack of hourglasses."""
