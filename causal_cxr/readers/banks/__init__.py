"""Vocabularies of concepts, one YAML file each; :func:`causal_cxr.readers.load_concepts` reads them."""
