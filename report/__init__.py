"""What a person looks at: figures, the demo's table."""
