"""What several networks share: attention, embeddings, blocks."""
