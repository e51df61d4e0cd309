"""Collections of captioned pictures with ground truth."""
