"""What both readers and audits count by: patients, not images."""
