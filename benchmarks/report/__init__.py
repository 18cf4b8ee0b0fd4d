"""Tables, figures, leaderboard."""
