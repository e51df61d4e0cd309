"""How good a Semantic-SAM is: names of its masks, the masks themselves, and text queries."""
