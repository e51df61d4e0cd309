"""The llm service: a language model proposes the named and the implied phrases of a caption."""
