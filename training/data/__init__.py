"""Training data of Semantic-SAM: SA-1B masks and a generated dataset's boxes, by batch number."""
