"""What Semantic-SAM is trained on: SA-1B's masks and a generated dataset's boxes, by number."""
