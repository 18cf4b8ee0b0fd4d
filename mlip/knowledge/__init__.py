"""Expert knowledge for pre-training: ontology, graph, embeddings, linking."""
