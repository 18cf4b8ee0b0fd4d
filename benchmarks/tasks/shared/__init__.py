"""What several transfer tasks need."""
