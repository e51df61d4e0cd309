"""Training of Semantic-SAM: recipes, prompts, targets, losses and the trainer."""
