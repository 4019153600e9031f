"""The two demo tasks. Neither their prompt formats nor the SQL schema occur in the base model's corpus."""
