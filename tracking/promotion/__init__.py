"""From a finished study to the champion, and back."""
