"""What the specifications of audits (``SPEC.yaml``) have in common: datasets, models, interventions, and how they are opened."""
